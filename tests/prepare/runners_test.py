import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from onet_jax.errors import InputError
from onet_jax.prepare import runners
from onet_jax.prepare.runners import Outcome, beam, in_this_process, processes

TASKS = [('chair' if i % 2 else 'lamp', f'{i:03d}', i) for i in range(12)]
EXPECTED = Outcome(
    {f'{category}/{name}': [i / 3, name] for category, name, i in TASKS if i % 4 != 3},
    {f'{category}/{name}': f'expected another number, found {i}' for category, name, i in TASKS if i % 4 == 3},
)


def divide(category, name, i):
    """Of the tests' module, so that other processes can import it."""
    if i % 4 == 3:
        raise InputError(f'expected another number, found {i}')
    return [i / 3, name]


def fill_the_disk(category, name, i):
    if i == 5:
        raise OSError(28, 'No space left on device')
    return i


def die_at_times(folder, category, name, i):
    """Notes that it ran; 0 takes its process with it once, 6 always."""
    first = not (folder / name).exists()
    with (folder / name).open('a') as file:
        file.write('.')
    if i == 6 or (i == 0 and first):
        os._exit(1)
    return i


def want_memory(category, name, i):
    if i == 5:
        raise MemoryError('Unable to allocate 8 EiB')
    return i


def hang(category, name, i):
    if i == 3:
        ctypes.PyDLL(None).sleep(60)  # native code that keeps the interpreter lock
    return i


def note_processes(category, name, i):
    return os.getppid(), os.getpid()


def die_at_once(category, name, i):
    os._exit(1)


@pytest.mark.parametrize('run', [in_this_process, processes(2)])
def test_a_task_that_is_rejected_stops_no_other(run):
    assert run(divide, TASKS, 'dividing') == EXPECTED
    assert run(divide, [], 'dividing') == Outcome({}, {})


@pytest.mark.parametrize('run', [in_this_process, processes(1)])
def test_want_of_memory_is_a_reason_too(run):
    outcome = run(want_memory, TASKS, 'filling')
    assert outcome.rejected == {'chair/005': 'expected to find enough memory (Unable to allocate 8 EiB)'}
    assert len(outcome.results) == 11


def test_each_worker_is_one_process():
    found = {tuple(pids) for pids in processes(2)(note_processes, TASKS, 'looking').results.values()}
    assert {parent for parent, _ in found} == {os.getpid()}
    assert 1 <= len({worker for _, worker in found} - {os.getpid()}) <= 2


@pytest.mark.parametrize('run', [in_this_process, processes(2)])
def test_any_other_error_stops_the_run(run):
    with pytest.raises(OSError, match='No space left'):
        run(fill_the_disk, TASKS, 'filling')


def test_a_process_that_dies_takes_its_task_with_it_and_no_other(tmp_path):
    outcome = processes(2)(partial(die_at_times, tmp_path), TASKS, 'dying')
    assert outcome.results == {f'{category}/{name}': i for category, name, i in TASKS if i != 6}
    assert outcome.rejected == {'lamp/006': 'the process that worked on it died, perhaps for want of memory'}
    runs = {i: len((tmp_path / name).read_text()) for _, name, i in TASKS}
    assert runs == {i: 2 if i in (0, 6) else 1 for i in range(12)}


@pytest.mark.slow
def test_a_task_that_takes_too_long_is_rejected(monkeypatch):
    monkeypatch.setattr(runners, 'TIME_LIMIT', 2.0)
    outcome = processes(1)(hang, TASKS[:6], 'waiting')
    assert outcome.rejected == {
        'chair/003': 'expected to be done within 2 s, found that it takes longer; simplify the shape'
    }
    assert len(outcome.results) == 5


@pytest.mark.slow
def test_workers_do_not_outlive_a_run_that_is_killed(tmp_path):
    """Not even while they work."""
    code = (
        'import sys, pathlib; sys.path.insert(0, sys.argv[1]); import runners_test\n'
        "if __name__ == '__main__':\n"
        '    from functools import partial\n'
        '    work = partial(runners_test.sleep_long, pathlib.Path(sys.argv[2]))\n'
        "    runners_test.processes(2)(work, runners_test.TASKS, 'sleeping')\n"
    )
    (tmp_path / 'run.py').write_text(code)
    (tmp_path / 'pids').mkdir()
    argv = [sys.executable, str(tmp_path / 'run.py'), str(Path(__file__).parent), str(tmp_path / 'pids')]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as run:
        assert comes_true(lambda: len(list((tmp_path / 'pids').iterdir())) == 2)
        run.kill()
    workers = [int(path.name) for path in (tmp_path / 'pids').iterdir()]
    assert comes_true(lambda: not any(map(is_alive, workers)))


def test_control_c_ends_the_tasks_at_once(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

    def interrupt():
        if comes_true(lambda: len(list(tmp_path.iterdir())) == 2):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        processes(2)(partial(sleep_long, tmp_path), TASKS, 'sleeping')
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert comes_true(lambda: not any(is_alive(int(path.name)) for path in tmp_path.iterdir()))
    assert len(list(tmp_path.iterdir())) == 2, 'no task is begun any more'


@pytest.mark.slow
@pytest.mark.parametrize('of_standard_input', [False, True])
def test_a_script_that_every_process_would_run_again_ends_with_advice(tmp_path, of_standard_input):
    """Else its processes wait for the lock that it holds, or each of them starts more."""
    code = (
        'from onet_jax.configs import conv_onet\n'
        'from onet_jax.prepare.embedded import embedded_dataset\n'
        "embedded_dataset(conv_onet('tiny').data)\n"
    )
    (tmp_path / 'run.py').write_text(code)
    argv, text = ([sys.executable, '-'], code) if of_standard_input else ([sys.executable, tmp_path / 'run.py'], None)
    environment = {**os.environ, 'ONET_JAX_CACHE': str(tmp_path / 'cache')}
    run = subprocess.run(argv, input=text, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1
    assert "and to prepare data under `if __name__ == '__main__':` only" in run.stderr.splitlines()[-1]
    assert not list((tmp_path / 'cache').rglob('dataset.json'))


def sleep_long(folder, category, name, i):
    (folder / str(os.getpid())).touch()
    time.sleep(300)


def is_alive(pid):
    """A process that ended but that nobody waited for is a zombie, and not alive."""
    stat = Path(f'/proc/{pid}/stat')
    return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] != 'Z'


def comes_true(condition):
    """Within a minute."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_when_all_processes_die_all_tasks_are_rejected():
    outcome = processes(2)(die_at_once, TASKS[:3], 'dying')
    assert not outcome.results
    assert set(outcome.rejected) == {'lamp/000', 'chair/001', 'lamp/002'}


def test_without_beam_the_runner_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(runners.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"found none; install it with `pip install -e '\.\[beam\]'`"):
        beam(tmp_path, [])


@pytest.fixture
def apache_beam():
    return pytest.importorskip('apache_beam', reason='the extra `beam` is not installed')


@pytest.mark.slow
def test_a_pipeline_gives_the_same_outcome(tmp_path, apache_beam):
    run = beam(tmp_path, [])
    assert run(divide, TASKS, 'dividing numbers') == EXPECTED
    assert run(divide, TASKS[:4], 'dividing numbers') == Outcome(
        {name: EXPECTED.results[name] for name in ('lamp/000', 'chair/001', 'lamp/002')},
        {'chair/003': EXPECTED.rejected['chair/003']},
    ), 'nothing is left of an earlier run'


# Beam does not close the file that it was writing to.
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:unclosed file .*beam-temp-part:ResourceWarning')
def test_any_other_error_stops_a_pipeline(tmp_path, apache_beam):
    with pytest.raises(RuntimeError, match='No space left'):
        beam(tmp_path, [])(fill_the_disk, TASKS, 'filling')
    gc.collect()


@pytest.mark.slow
def test_a_process_that_dies_stops_no_pipeline(tmp_path, apache_beam):
    (tmp_path / 'runs').mkdir()
    outcome = beam(tmp_path, [])(partial(die_at_times, tmp_path / 'runs'), TASKS, 'dying')
    assert list(outcome.rejected) == ['lamp/006']
    assert len(outcome.results) == 11


def test_options_reach_the_pipeline(tmp_path, apache_beam, monkeypatch):
    reached = []

    def make_pipeline(options):
        reached.append(options.get_all_options(drop_default=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(apache_beam, 'Pipeline', make_pipeline)
    for options in ([], ['--direct_num_workers=2'], ['--runner=FlinkRunner', '--direct_num_workers=3']):
        with pytest.raises(KeyboardInterrupt):
            beam(tmp_path, options)(divide, TASKS, 'dividing')
    assert reached == [
        {'runner': 'FnApiRunner'},
        {'runner': 'FnApiRunner', 'direct_num_workers': 2},
        {'runner': 'FlinkRunner', 'direct_num_workers': 3},
    ]


@pytest.mark.slow
def test_processes_of_beam_may_execute_the_pipeline(tmp_path, apache_beam):
    run = beam(tmp_path, ['--direct_running_mode=multi_processing', '--direct_num_workers=2'])
    found = run(note_processes, TASKS, 'looking').results
    assert set(found) == {f'{category}/{name}' for category, name, _ in TASKS}
    assert os.getpid() not in {parent for parent, _ in found.values()}


def test_without_options_a_pipeline_stays_in_this_process(tmp_path, apache_beam, monkeypatch):
    """The runner that Beam takes by default fetches a program from the internet and starts it."""
    prism = pytest.importorskip('apache_beam.runners.portability.prism_runner')
    started = []
    monkeypatch.setattr(prism.PrismRunner, 'run_pipeline', lambda *args: started.append(args))
    found = beam(tmp_path, [])(note_processes, TASKS, 'looking').results.values()
    assert {parent for parent, _ in found} == {os.getpid()}
    assert not started
