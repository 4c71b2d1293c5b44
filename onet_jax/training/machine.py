"""Diagnosis of this machine: hardware, drivers, packages, caches, and why JAX does not use an accelerator."""

import logging
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax

from onet_jax import __version__
from onet_jax.files import cache_folder, machine_memory

PACKAGES = (
    'numpy', 'scipy', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections', 'absl-py', 'trimesh', 'embreex',
    'manifold3d', 'mapbox-earcut', 'scikit-image', 'fast-simplification', 'pillow', 'safetensors', 'flatbuffers',
    'tensorboardX',
)  # fmt: skip
PLUGINS = ('jax-cuda13-plugin', 'jax-cuda12-plugin')
DRIVERS = {580: 'cuda13', 525: 'cuda12'}  # oldest driver -> the extra of jax that it can run
JAX_OPTIONS: Any = jax.config  # some versions of JAX do not declare its attributes
MIN_FREE = 2e9  # bytes of disk: the embedded datasets and the checkpoints of a small run


class Facts(NamedTuple):
    """What decides on which devices JAX runs."""

    platform: str | None  # of the devices in use: 'cpu', 'gpu' or 'tpu'; None where JAX did not start
    message: str = ''  # what JAX said while it looked for devices
    jax_platforms: str = ''  # $JAX_PLATFORMS
    visible_gpus: str | None = None  # $CUDA_VISIBLE_DEVICES
    nvidia: bool = False  # an NVIDIA driver is installed
    gpus: tuple[str, ...] = ()  # name, version of the driver and memory, as nvidia-smi lists them
    smi_error: str = ''  # what nvidia-smi said instead
    cuda_plugin: str | None = None  # of JAX, with its version
    tpu: bool = False  # a TPU is plugged in
    libtpu: str | None = None  # its version


class Diagnosis(NamedTuple):
    """Which accelerator is used, or why none is and what to do."""

    text: str
    broken: bool = False  # something is there that fails, rather than absent or switched off


def diagnose(facts: Facts) -> Diagnosis:
    """The first reason that applies, in the order in which a user has to fix them."""
    if facts.platform is None:
        cure = f'; JAX_PLATFORMS={facts.jax_platforms} asks for it: unset that to let JAX choose'
        return Diagnosis(f'JAX does not start: {facts.message}{cure if facts.jax_platforms else ""}', True)
    if facts.platform != 'cpu':
        return Diagnosis(f'JAX runs on the {facts.platform.upper()}')
    if not (facts.nvidia or facts.tpu or facts.libtpu):
        return Diagnosis('no GPU is used: there is no NVIDIA driver (no nvidia-smi, no /proc/driver/nvidia) and no TPU')
    name = 'GPU' if facts.nvidia else 'TPU'
    if facts.smi_error:
        return Diagnosis(
            f'no GPU is used: the NVIDIA driver does not answer; nvidia-smi says: {facts.smi_error}. Restart the machine or '
            'install the driver anew',
            True,
        )
    if facts.jax_platforms.split(',')[0] == 'cpu':
        return Diagnosis(f'no {name} is used: JAX_PLATFORMS={facts.jax_platforms} asks for the CPU; unset it')
    if facts.nvidia and facts.visible_gpus is not None and facts.visible_gpus.strip() in ('', '-1'):
        return Diagnosis(f'no GPU is used: CUDA_VISIBLE_DEVICES={facts.visible_gpus!r} hides all of them; unset it')
    if facts.nvidia and facts.cuda_plugin is None:
        return Diagnosis(f'no GPU is used: this JAX is built for the CPU alone; {_cuda_command(facts.gpus)}')
    if not facts.nvidia and facts.libtpu is None:
        return Diagnosis('no TPU is used: libtpu is not installed; pip install -U "jax[tpu]"')
    if not facts.nvidia and not facts.tpu:
        return Diagnosis(f'no TPU is used: libtpu {facts.libtpu} is installed, but no TPU is plugged in')
    plugin = facts.cuda_plugin if facts.nvidia else f'libtpu {facts.libtpu}'
    said = f'JAX says: {facts.message}' if facts.message else 'JAX does not say why'
    return Diagnosis(f'no {name} is used: {plugin} is installed, but failed to initialise; {said}', True)


def _cuda_command(gpus: tuple[str, ...]) -> str:
    """The command that installs JAX for the driver of `gpus`."""
    found = re.search(r', (\d+)\.', gpus[0]) if gpus else None
    if found is None:
        return 'pip install -U "jax[cuda13]"'
    extra = next((extra for oldest, extra in DRIVERS.items() if int(found[1]) >= oldest), None)
    if extra is None:
        return f'update the NVIDIA driver from {found[1]} to {max(DRIVERS)}, then pip install -U "jax[cuda13]"'
    return f'pip install -U "jax[{extra}]"'


def gpu_present() -> bool:
    """Whether an NVIDIA driver is installed, even if JAX does not use it."""
    return shutil.which('nvidia-smi') is not None or Path('/proc/driver/nvidia/version').exists()


def gather_facts() -> Facts:
    """The facts about this process. JAX's messages about devices are caught only where it has not initialised them before."""
    found, message = None, _Listener()
    logging.getLogger('jax').addHandler(message)
    try:
        found = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # the latter, without a message, for an unknown platform
        message.heard.append(str(error) or 'there is no such platform')
    finally:
        logging.getLogger('jax').removeHandler(message)
    plugins = [f'{name} {installed}' for name in PLUGINS if (installed := _version(name))]
    gpus, smi_error = _ask_nvidia_smi()
    return Facts(
        platform=found,
        message=' | '.join(message.heard),
        jax_platforms=os.environ.get('JAX_PLATFORMS', ''),
        visible_gpus=os.environ.get('CUDA_VISIBLE_DEVICES'),
        nvidia=gpu_present(),
        gpus=gpus,
        smi_error=smi_error,
        cuda_plugin=plugins[0] if plugins else None,
        tpu=any(Path('/dev').glob('accel[0-9]*')),
        libtpu=_version('libtpu'),
    )


class _Listener(logging.Handler):
    """Keeps warnings and errors, each in one line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        reason = f': {record.exc_info[1]}' if record.exc_info and record.exc_info[1] else ''
        self.heard.append(' '.join(f'{record.getMessage()}{reason}'.split()))


def _ask_nvidia_smi() -> tuple[tuple[str, ...], str]:
    """A line for each GPU, and what went wrong."""
    if shutil.which('nvidia-smi') is None:
        return (), ''
    query = ('nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader')
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return (), 'nothing within 30 seconds'
    lines = tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
    if done.returncode or not lines:
        return (), ' '.join((done.stdout + done.stderr).split()) or f'nothing, exit code {done.returncode}'
    return lines, ''


def describe_precision(dtype: str = 'float32') -> str:
    """In which precision the networks compute; `dtype` is that of `config.train.dtype`."""
    products = JAX_OPTIONS.jax_default_matmul_precision or 'the default'
    return f'{dtype}, matrix products in {products} precision'


def examine() -> tuple[list[str], list[str]]:
    """Lines that describe this machine, and what is broken on it."""
    facts = gather_facts()
    diagnosis = diagnose(facts)
    packages = {name: _version(name) for name in PACKAGES}
    missing = [name for name, installed in packages.items() if installed is None]
    cache, home = cache_folder(), _existing(cache_folder())
    free = shutil.disk_usage(home).free
    lines = [
        f'onet_jax {__version__}, Python {platform.python_version()}, {platform.platform()}',
        'packages: ' + ', '.join(f'{name} {installed or "MISSING"}' for name, installed in packages.items()),
        f'TensorFlow: {_describe_tensorflow()}',
        f'devices: {_describe_devices() if facts.platform else "none"}',
        *(f'NVIDIA: {gpu}' for gpu in facts.gpus),
        f'precision: {describe_precision()}',
        f'memory: {_describe_memory()}, {os.cpu_count()} cores',
        f'disk: {free / 1e9:.1f} GB free for {cache}',
        f'embedded datasets: {_describe_datasets(cache)}',
        f'compiled programs: {JAX_OPTIONS.jax_compilation_cache_dir or "not kept (set JAX_COMPILATION_CACHE_DIR to a folder)"}',
        f'accelerator: {diagnosis.text}',
    ]
    problems = [diagnosis.text] if diagnosis.broken else []
    if missing:
        problems.append(f'packages are missing: {", ".join(missing)}; run `pip install -e .`')
    if not os.access(home, os.W_OK):
        problems.append(f'{home} cannot be written to; set ONET_JAX_CACHE to another folder')
    if free < MIN_FREE:
        problems.append(
            f'{home} has {free / 1e9:.1f} GB free, less than {MIN_FREE / 1e9:.0f}; make room or set ONET_JAX_CACHE'
        )
    return lines, problems


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _describe_tensorflow() -> str:
    found = {name: _version(name) for name in ('tensorflow', 'tensorflow-cpu', 'tensorflow-datasets')}
    installed = [f'{name} {number}' for name, number in found.items() if number]
    if found['tensorflow-datasets'] and len(installed) > 1:
        return ', '.join(installed)
    return "absent; config.data.feed 'resident' needs none, 'tfds' needs `pip install -e '.[data]'`"


def _describe_devices() -> str:
    def memory(device):
        stats = device.memory_stats() or {}
        return f', {stats["bytes_limit"] / 1e9:.1f} GB' if 'bytes_limit' in stats else ''

    devices = [f'{device.device_kind} ({device.platform}{memory(device)})' for device in jax.devices()]
    return ', '.join(f'{devices.count(kind)} x {kind}' for kind in dict.fromkeys(devices))


def _describe_memory() -> str:
    total, table = machine_memory() / 1e9, Path('/proc/meminfo')
    if not table.exists():
        return f'{total:.1f} GB'
    (kilobytes,) = re.findall(r'MemAvailable:\s+(\d+) kB', table.read_text())
    return f'{int(kilobytes) * 1024 / 1e9:.1f} of {total:.1f} GB free'


def _describe_datasets(cache: Path) -> str:
    folders = [path.parent for path in cache.glob('*/dataset.json')]
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob('*') if file.is_file())
    return f'{len(folders)}, {size / 1e6:.0f} MB in {cache}' if folders else f'none yet in {cache}'
