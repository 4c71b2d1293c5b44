"""Training on several processes and on eight devices, for real: `launch.train` on devices that XLA makes of the CPU, which
talk over gloo."""

import os
import re
import signal
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

from onet_jax.data.datasets import open_dataset
from onet_jax.data.records import Need, read_index
from onet_jax.data.resident import resident_feed
from onet_jax.evaluation.validate import validate
from onet_jax.run import load_run
from onet_jax.training import checkpoints, loop
from onet_jax.training.faults import EXIT_STOPPED
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


def train_on(
    num_processes, num_devices, folder, data_dir, *, feed='resident', by='flags', flags=(), stop_at=None, **train
):
    """Run `launch.train` in each of the processes, on `num_devices` devices each, in folder/w; what each printed.

    stop_at: what the first process prints when the last one is to be sent SIGTERM.
    """
    (folder / 'config.py').write_text(CONFIG.format(train=SETTINGS | train, feed=feed))
    port = free_port()
    command = [
        '-m',
        'launch.train',
        f'--config={folder}/config.py',
        f'--workdir={folder}/w',
        f'--data_dir={data_dir}',
        *flags,
    ]
    commands, variables = [], []
    for process in range(num_processes):
        arguments, variable = [], {}
        if by == 'slurm':  # what srun sets
            arguments = ['--distributed']
            variable = {'SLURM_JOB_ID': '1', 'SLURM_STEP_NODELIST': 'localhost', 'JAX_COORDINATOR_PORT': port}
            variable |= {'SLURM_NTASKS': num_processes, 'SLURM_PROCID': process, 'SLURM_LOCALID': process}
        elif num_processes > 1:
            arguments = [f'--coordinator_address=localhost:{port}', f'--num_processes={num_processes}']
            arguments += [f'--process_id={process}']
        commands.append(command + arguments)
        variables.append({'XLA_FLAGS': flags_for(num_devices), **variable})
    return run_all(folder, commands, variables, stop_at)


def flags_for(num_devices: int) -> str:
    """The flags of this process, for another number of devices."""
    return re.sub(r'(?<=device_count=)\d+', str(num_devices), os.environ['XLA_FLAGS'])


def free_port():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def run_all(folder, commands, variables, stop_at=None):
    """Run Python with these arguments and variables at the same time until all end or one fails; what each printed."""
    environment = os.environ | {'PYTHONPATH': f'{ROOT}:{ROOT}/tests'}
    children = []
    try:
        for process, (command, variable) in enumerate(zip(commands, variables, strict=True)):
            with (folder / f'output{process}').open('w') as output:
                child = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env=environment | {name: str(value) for name, value in variable.items()},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            children.append(child)
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and any(child.poll() is None for child in children):
            if any(child.poll() not in (None, 0, EXIT_STOPPED) for child in children):
                break
            if stop_at and stop_at in (folder / 'output0').read_text():
                children[-1].send_signal(signal.SIGTERM)
                stop_at = ''
            time.sleep(0.1)
    finally:
        for child in children:
            child.kill()
            child.wait()
    outputs = [(folder / f'output{process}').read_text() for process in range(len(commands))]
    expected = 0 if stop_at is None else EXIT_STOPPED
    assert [child.returncode for child in children] == [expected] * len(commands), '\n'.join(outputs)
    return outputs


def losses(workdir):
    return [value for _, value in read_log(workdir, 'train/loss')]


@pytest.fixture
def one_device(monkeypatch):
    """Training in this process, on one device."""
    monkeypatch.setattr(loop, 'make_parallel', partial(loop.make_parallel, devices=jax.devices()[:1]))

    def train(workdir, dataset, *, feed='resident', ema_decay=0.0, **settings):
        config = small_config(**SETTINGS | settings)
        with config.unlocked():
            config.data.feed = feed
            config.optim.ema_decay = ema_decay
        return loop.train(config, workdir, dataset)

    return train


@pytest.mark.slow
def test_what_two_processes_saved_one_goes_on_with(dataset, tmp_path, one_device):
    """pmap, started by flags. Losses as on one device; the first process alone writes, draws and tells."""
    flags = ['--config.optim.ema_decay=0.5', '--config.eval.render_every_steps=4']
    told, silent = train_on(2, 2, tmp_path, dataset, flags=flags, backend='pmap')
    assert 'devices: 4 x cpu (cpu) in 2 processes' in told
    assert 'step 4/4' in told
    assert 'step' not in silent
    assert [path.name for path in (tmp_path / 'w' / 'images').iterdir()] == ['00000004.png']
    whole = one_device(tmp_path / 'one', dataset, ema_decay=0.5, num_steps=6)
    np.testing.assert_allclose(losses(tmp_path / 'w'), losses(tmp_path / 'one')[:4], rtol=1e-5)

    run = load_run(tmp_path / 'w')  # its parameters are the average
    examples = open_dataset(dataset).evaluation_batches(run.config, run.config.eval.split)
    batches = (batch for batch, _ in examples)
    loss = dict(read_log(tmp_path / 'w', 'val/loss'))[run.step]
    assert validate(jax.jit(run.method.metrics), run.params, batches)['loss'] == pytest.approx(loss, rel=1e-5)
    resumed = one_device(tmp_path / 'w', dataset, ema_decay=0.5, num_steps=6, backend='pmap')
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
    assert load_run(tmp_path / 'w').step in (4, 6)


@pytest.mark.slow
def test_eight_devices_equal_one(dataset, tmp_path, one_device):
    [told] = train_on(1, 8, tmp_path, dataset)
    assert 'devices: 8 x cpu' in told
    one_device(tmp_path / 'one', dataset)
    np.testing.assert_allclose(losses(tmp_path / 'w'), losses(tmp_path / 'one'), rtol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(dataset, tmp_path, one_device):
    """And another number of processes goes on there. The processes wait for each other at the end: both must have agreed."""
    settings = {'eval_every_steps': 10**6, 'checkpoint_every_steps': 10**6}
    told, silent = train_on(2, 1, tmp_path, dataset, stop_at='step 1/', num_steps=10**6, **settings)
    assert 'SIGTERM: the run saves after this step and stops' in silent
    assert 'SIGTERM' not in told
    stopped = int(told.split('stopped and saved at step ')[1].split(';')[0])
    with checkpoints.read_checkpoints(tmp_path / 'w') as found:
        assert [checkpoint.step for checkpoint in found.checkpoints] == [stopped]
    assert sorted(path.name for path in (tmp_path / 'w' / 'checkpoints').iterdir()) == [str(stopped)]
    resumed = one_device(tmp_path / 'w', dataset, num_steps=stopped + 2, **settings)
    assert int(resumed.step) == stopped + 2
    assert len(losses(tmp_path / 'w')) == stopped + 2


AGREE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import jax
import jax.numpy as jnp
from onet_jax.parallel import any_process, from_first_process, make_parallel, make_vote, start_processes

port, process, data_dir, workdir = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
start_processes(f'localhost:{port}', 2, process)
from onet_jax.data.datasets import open_dataset
from onet_jax.data.records import Need
from onet_jax.data.resident import resident_feed
from onet_jax.training import faults

first = {'steps': [1, 20], 'of': 'H\u00fctte', 'score': None}
assert from_first_process(None if process else first) == first
assert any_process(process == 1)
assert not any_process(False)
vote = make_vote()
assert [vote(process == 1 and i == 2) for i in range(5)] == [False, False, False, True, False]

parallel = make_parallel('pmap', 8)
feed = resident_feed(data_dir, Need(('points', 'occ', 'voxels'), 64), batch_size=8, seed=3, rows=parallel.rows)
losses = list(parallel.replicate(jnp.asarray([1.0, jnp.inf, 2.0])))
try:
    faults.check_finite(losses, None, 6, SimpleNamespace(latest=None), workdir, feed, open_dataset(data_dir))
except FloatingPointError as error:
    print(error)
"""


@pytest.mark.slow
def test_processes_agree_and_keep_the_whole_batch(dataset, tmp_path):
    """What one of two processes says, a flag of one of them, and a batch of which each has a half."""
    port = free_port()
    commands = [['-c', AGREE, port, process, dataset, tmp_path] for process in range(2)]
    variables = [{'XLA_FLAGS': flags_for(2)}] * 2
    outputs = run_all(tmp_path, [[str(argument) for argument in command] for command in commands], variables)
    for output in outputs:
        assert f'the loss of step 5 is not finite; {tmp_path} holds no checkpoint yet' in output
    need = Need(('points', 'occ', 'voxels'), 64)
    expected = next(resident_feed(dataset, need, batch_size=8, seed=3)(4))
    shapes = read_index(dataset).splits['train']
    with np.load(tmp_path / 'bad_batch_5.npz') as stored:
        assert stored['name'].tolist() == ['/'.join(shapes[i]) for i in np.asarray(expected['index'])]
        for key, content in expected.items():
            np.testing.assert_array_equal(stored[key], content, strict=True)
