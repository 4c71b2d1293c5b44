"""Training on several processes and on eight devices, for real: `launch.train` on devices that XLA makes of the CPU, which
talk over gloo."""

import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from model_configs import small_config

from onet_jax.training import checkpoints, loop
from onet_jax.training.log import read_log

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 240  # seconds, after which all processes of a run are killed
CONFIG = """
from model_configs import small_config

def get_config(variant=''):
    config = small_config(**{train})
    with config.unlocked():
        config.data.feed = {feed!r}
    return config
"""
SETTINGS = {'num_steps': 4, 'batch_size': 8}


def train_on(num_processes, num_devices, folder, data_dir, *, feed='resident', by='flags', **train):
    """Run `launch.train` in each of the processes, on `num_devices` devices each, in folder/w; what each printed."""
    (folder / 'config.py').write_text(CONFIG.format(train=SETTINGS | train, feed=feed))
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'launch.train', f'--config={folder}/config.py']
    command += [f'--workdir={folder}/w', f'--data_dir={data_dir}']
    environment = {
        **os.environ,
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
        'PYTHONPATH': f'{ROOT}:{ROOT}/tests',
    }
    children = []
    try:
        for process in range(num_processes):
            arguments, variables = [], {}
            if by == 'slurm':  # what srun sets
                arguments = ['--distributed']
                variables = {'SLURM_JOB_ID': '1', 'SLURM_STEP_NODELIST': 'localhost', 'JAX_COORDINATOR_PORT': port}
                variables |= {'SLURM_NTASKS': num_processes, 'SLURM_PROCID': process, 'SLURM_LOCALID': process}
            elif num_processes > 1:
                arguments = [f'--coordinator_address=localhost:{port}', f'--num_processes={num_processes}']
                arguments += [f'--process_id={process}']
            with (folder / f'output{process}').open('w') as output:
                child = subprocess.Popen(
                    command + arguments,
                    cwd=ROOT,
                    env=environment | {name: str(value) for name, value in variables.items()},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            children.append(child)
        end = time.monotonic() + TIMEOUT
        while (
            time.monotonic() < end and any(c.poll() is None for c in children) and not any(c.poll() for c in children)
        ):
            time.sleep(0.1)
    finally:
        for child in children:
            child.kill()
            child.wait()
    outputs = [(folder / f'output{process}').read_text() for process in range(num_processes)]
    assert [child.returncode for child in children] == [0] * num_processes, '\n'.join(outputs)
    return outputs


def losses(workdir):
    return [value for _, value in read_log(workdir, 'train/loss')]


@pytest.fixture
def one_device(monkeypatch):
    """Training in this process, on one device."""
    monkeypatch.setattr(loop, 'make_parallel', partial(loop.make_parallel, devices=jax.devices()[:1]))

    def train(workdir, dataset, *, feed='resident', **settings):
        config = small_config(**SETTINGS | settings)
        with config.unlocked():
            config.data.feed = feed
        return loop.train(config, workdir, dataset)

    return train


@pytest.mark.slow
def test_what_two_processes_saved_one_goes_on_with(dataset, tmp_path, one_device):
    """pmap, started by flags. Losses as on one device; the first process alone writes and tells."""
    told, silent = train_on(2, 2, tmp_path, dataset, backend='pmap')
    assert 'devices: 4 x cpu (cpu) in 2 processes' in told
    assert 'step 4/4' in told
    assert 'step' not in silent
    whole = one_device(tmp_path / 'one', dataset, num_steps=6)
    np.testing.assert_allclose(losses(tmp_path / 'w'), losses(tmp_path / 'one')[:4], rtol=1e-5)

    assert checkpoints.load_run(tmp_path / 'w').step in (2, 4)
    resumed = one_device(tmp_path / 'w', dataset, num_steps=6, backend='pmap')
    assert int(resumed.step) == 6
    assert len(losses(tmp_path / 'w')) == 6
    np.testing.assert_allclose(losses(tmp_path / 'w'), losses(tmp_path / 'one'), rtol=1e-5)
    assert jax.tree.structure(resumed) == jax.tree.structure(whole)


@pytest.mark.slow
def test_what_one_process_saved_two_go_on_with(dataset, tmp_path, one_device):
    """jit over a mesh, started by the variables that srun sets, each process decoding its own records only."""
    pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')
    one_device(tmp_path / 'one', dataset, num_steps=6, feed='tfds')
    one_device(tmp_path / 'w', dataset, feed='tfds', backend='jit')
    told, _ = train_on(2, 2, tmp_path, dataset, feed='tfds', by='slurm', backend='jit', num_steps=6)
    assert f'resuming at step 4 of {tmp_path}/w' in told
    assert len(losses(tmp_path / 'w')) == 6
    np.testing.assert_allclose(losses(tmp_path / 'w'), losses(tmp_path / 'one'), rtol=1e-5)
    assert checkpoints.load_run(tmp_path / 'w').step in (4, 6)


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['pmap', 'jit'])
def test_eight_devices_equal_one(dataset, tmp_path, one_device, backend):
    [told] = train_on(1, 8, tmp_path, dataset, backend=backend)
    assert 'devices: 8 x cpu' in told
    one_device(tmp_path / 'one', dataset)
    np.testing.assert_allclose(losses(tmp_path / 'w'), losses(tmp_path / 'one'), rtol=1e-5)
