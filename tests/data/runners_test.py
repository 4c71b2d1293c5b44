import gc
import os
import threading
import time
from functools import partial

import pytest

from onet_jax.data import runners
from onet_jax.data.runners import Outcome, beam, processes

TASKS = [('chair' if i % 2 else 'lamp', f'{i:03d}', i) for i in range(12)]
EXPECTED = Outcome(
    {f'{category}/{name}': [i / 3, name] for category, name, i in TASKS if i % 4 != 3},
    {f'{category}/{name}': f'expected another number, found {i}' for category, name, i in TASKS if i % 4 == 3},
)


def divide(category, name, i):
    """Of the tests' module, so that other processes can import it."""
    if i % 4 == 3:
        raise ValueError(f'expected another number, found {i}')
    return [i / 3, name]


def fill_the_disk(category, name, i):
    if i == 5:
        raise OSError(28, 'No space left on device')
    return i


def die_at_times(folder, category, name, i):
    """Notes that it ran; 0 takes its process with it once and 6 always, 5 is slow and finds its process gone."""
    first = not (folder / name).exists()
    with (folder / name).open('a') as file:
        file.write('.')
    if i == 6 or (i == 0 and first):
        os._exit(1)
    if i == 5:
        time.sleep(0.5)
    return i


def note_process(category, name, i):
    return os.getpid()


def die_at_once(category, name, i):
    os._exit(1)


@pytest.mark.parametrize('num_workers', [1, 2, 3])
def test_a_task_that_is_rejected_stops_no_other(num_workers, capsys):
    assert processes(num_workers)(divide, TASKS, 'dividing') == EXPECTED
    shown = capsys.readouterr().err
    assert 'dividing: 100%' in shown
    assert '12/12' in shown


def test_one_worker_works_in_this_process():
    def work(category, name, i):  # could not be sent to another one
        return os.getpid(), threading.current_thread() is threading.main_thread()

    assert set(processes(1)(work, TASKS, 'looking').results.values()) == {(os.getpid(), False)}
    assert processes()(work, [], 'looking') == Outcome({}, {})


@pytest.mark.parametrize('num_workers', [1, 2])
def test_any_other_error_stops_the_run(num_workers):
    with pytest.raises(OSError, match='No space left'):
        processes(num_workers)(fill_the_disk, TASKS, 'filling')


def test_a_process_that_dies_takes_its_task_with_it_and_no_other(tmp_path):
    outcome = processes(2)(partial(die_at_times, tmp_path), TASKS, 'dying')
    assert outcome.results == {f'{category}/{name}': i for category, name, i in TASKS if i != 6}
    assert list(outcome.rejected) == ['lamp/006']
    assert 'the process that worked on it died' in outcome.rejected['lamp/006']
    runs = {i: len((tmp_path / name).read_text()) for _, name, i in TASKS}
    assert runs[0] == max(runs.values()) == 2, 'once with others, then alone'
    assert runs[6] in (1, 2), 'it may have waited when another process died'


def test_a_pool_may_be_found_broken_when_it_is_given_work(monkeypatch):
    """Between two looks at what is done; then there may be nothing to wait for."""
    pools = []

    class Pool(runners.ThreadPoolExecutor):
        """Takes one task, after which its process is dead."""

        def __init__(self):
            super().__init__(1)
            self.num_taken = 0

        def submit(self, *args):
            self.num_taken += 1
            if self.num_taken > 1:
                raise runners.BrokenProcessPool
            return super().submit(*args)

    def open_pool(num_workers):
        pools.append(Pool())
        return pools[-1]

    monkeypatch.setattr(runners, '_open_pool', open_pool)
    assert processes(2)(divide, TASKS, 'dividing') == EXPECTED
    assert len(pools) >= len(TASKS)


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


def test_a_pipeline_gives_the_same_outcome(tmp_path, apache_beam):
    run = beam(tmp_path, [])
    assert run(divide, TASKS, 'dividing numbers') == EXPECTED
    assert run(divide, TASKS[:4], 'dividing numbers') == Outcome(
        {name: EXPECTED.results[name] for name in ('lamp/000', 'chair/001', 'lamp/002')},
        {'chair/003': EXPECTED.rejected['chair/003']},
    ), 'nothing is left of an earlier run'


# Beam does not close the file that it was writing to.
@pytest.mark.filterwarnings('ignore:unclosed file .*beam-temp-part:ResourceWarning')
def test_any_other_error_stops_a_pipeline(tmp_path, apache_beam):
    with pytest.raises(RuntimeError, match='No space left'):
        beam(tmp_path, [])(fill_the_disk, TASKS, 'filling')
    gc.collect()


def test_options_reach_the_pipeline(tmp_path, apache_beam):
    run = beam(tmp_path, ['--direct_running_mode=multi_processing', '--direct_num_workers=2'])
    found = run(note_process, TASKS, 'looking').results
    assert set(found) == {f'{category}/{name}' for category, name, _ in TASKS}
    assert os.getpid() not in found.values()


def test_without_options_a_pipeline_stays_in_this_process(tmp_path, apache_beam, monkeypatch):
    """The runner that Beam takes by default fetches a program from the internet and starts it."""
    prism = pytest.importorskip('apache_beam.runners.portability.prism_runner')
    started = []
    monkeypatch.setattr(prism.PrismRunner, 'run_pipeline', lambda *args: started.append(args))
    assert set(beam(tmp_path, [])(note_process, TASKS, 'looking').results.values()) == {os.getpid()}
    assert not started
