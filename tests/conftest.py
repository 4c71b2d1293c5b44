"""Fixtures shared by all tests. Two CPU devices are forced before JAX starts, so that the parallel paths are real."""

import gc
import mmap
import os
from pathlib import Path

from onet_jax.files import cache_folder

# Each program is compiled once on a machine: what a later session compiles is what an edit has changed.
os.environ |= {
    'JAX_COMPILATION_CACHE_DIR': str(cache_folder() / 'compiled_tests'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    # Two processes test at the same time: threads of a small product would wait for each other's cores, and busily.
    'OPENBLAS_NUM_THREADS': '1',
}

import jax
import jaxlib
import numpy as np
import pytest
from parity import golden as golden_files
from parity.golden import SHARED

MAX_MAPS = 15_000  # of the 65,530 that Linux allows: the tests of one file add a few thousand


def pytest_addoption(parser):
    help = 'optimisation level of XLA: 0 compiles in a third of the time, 1 rounds as the programs of users do'
    parser.addoption('--xla-level', type=int, choices=(0, 1), default=0, help=help)


def pytest_configure(config):
    """Small networks run for milliseconds and compile for seconds, most of which would go into making the code fast."""
    flags = ['--xla_force_host_platform_device_count=2', '--xla_cpu_multi_thread_eigen=false']
    flags += [f'--xla_backend_optimization_level={config.option.xla_level}']
    if config.option.xla_level == 0:
        # Each fusion goes to LLVM as it stands, and all of a program as one module.
        flags += known_flags('--xla_cpu_use_fusion_emitters=false', '--xla_cpu_parallel_codegen_split_count=1')
    # It is read with the first array, not with the import of JAX.
    os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *flags])
    gc.disable()


def known_flags(*flags):
    """Those of the flags that this jaxlib knows: XLA ends a process that is given another one.

    The name of a flag stands in the library between zeros; a dropped one may stand in a list of old names.
    """
    names = {flag: b'\0' + flag.strip('-').partition('=')[0].encode() + b'\0' for flag in flags}
    for path in Path(jaxlib.__file__).parent.glob('libjax_common.*'):
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            return [flag for flag, name in names.items() if library.find(name) >= 0]
    return []


def pytest_collection_finish():
    """What is imported and collected stays: the garbage collector, which tracing keeps busy, need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


@pytest.fixture(scope='module')
def frozen_heap():
    """For tests of what collects garbage again and again: it does not look at what earlier tests and imports have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='module')
def small_pictures():
    """Pictures of a quarter of their width, for tests of what they are in."""
    from onet_jax.viz.pictures import SIZE, animation, contact_sheet, render

    with pytest.MonkeyPatch.context() as patch:
        for function in (render, contact_sheet, animation):
            patch.setitem(function.__kwdefaults__, 'size', SIZE // 4)
        yield


@pytest.fixture(autouse=True, scope='module')
def _forget_compiled_programs():
    """Each program maps memory; thousands of them in one process reach Linux's `vm.max_map_count`, and XLA dies of it."""
    yield
    maps = Path('/proc/self/maps')
    if not maps.exists() or maps.read_text().count('\n') > MAX_MAPS:
        jax.clear_caches()


@pytest.fixture
def golden():
    """A function (relative path) -> dict of arrays of one golden file; skips the test where the file is absent."""

    def load(name: str) -> dict[str, np.ndarray]:
        if golden_files.find_golden(name) is None:
            pytest.skip(f'golden file {name} not found under {SHARED} (set ONET_JAX_SHARED)')
        return golden_files.read_golden(name)

    return load


def golden_names(pattern: str) -> list[str]:
    """Names of the golden files that match, for `parametrize`; a placeholder that skips where they are absent."""
    return golden_files.golden_names(pattern) or [pattern]


@pytest.fixture(scope='session')
def dataset(tmp_path_factory) -> Path:
    """A dataset of three families with 3 training, 1 validation and 1 test shape each; 5,000 points make 2 chunks; 3 views."""
    from onet_jax.prepare.embedded import prepare_procedural
    from onet_jax.prepare.runners import in_this_process

    data_dir = tmp_path_factory.mktemp('data') / 'solids'
    prepare_procedural(
        data_dir,
        families=('chair', 'mug', 'table'),
        num_shapes_per_family=5,
        num_points=5000,
        num_views=3,
        seed=0,
        val_fraction=0.2,
        test_fraction=0.2,
        run=in_this_process,
    )
    return data_dir


@pytest.fixture(scope='session')
def workdir(dataset, tmp_path_factory) -> Path:
    """A workdir in which a small network was trained for four steps on `dataset`."""
    from model_configs import small_config

    from onet_jax.training.loop import train

    folder = tmp_path_factory.mktemp('runs') / 'small'
    train(small_config(), folder, dataset)
    return folder
