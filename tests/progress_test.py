"""The rules of what is said when, with a clock that the test sets."""

from itertools import pairwise

import pytest

from onet_jax import progress
from onet_jax.progress import EVERY, Activity, Reporter, track, working


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, 'time', clock)
    return clock


@pytest.fixture
def reporter(clock, monkeypatch):
    """One whose thread does nothing, so that the test asks what is due."""
    monkeypatch.setattr(Reporter, '_watch', lambda self, ended: None)
    return Reporter()


def test_what_is_quick_says_nothing_and_what_takes_long_is_said_again_and_again(reporter, clock):
    quick = Activity('reading')
    reporter.begin(quick)
    clock.now += 0.375
    assert reporter.due() is None
    reporter.end(quick)
    assert reporter.due() is None
    slow = Activity('compiling')
    reporter.begin(slow)
    said = []
    for _ in range(200):
        clock.now += 0.125
        line = reporter.due()
        if line is not None:
            reporter.say(line)
            said.append((clock.now - 100.375, line))
    assert said[:3] == [(0.5, 'compiling'), (7.5, 'compiling, 0:08 so far'), (14.5, 'compiling, 0:14 so far')]
    assert {b - a for (a, _), (b, _) in pairwise(said)} == {EVERY}
    reporter.end(slow)


def test_another_line_puts_off_the_next_one(reporter, clock, capsys):
    reporter.begin(Activity('training'))
    clock.now += 1
    assert reporter.due() == 'training'
    clock.now += EVERY - 1
    reporter.say('step 1')
    clock.now += EVERY - 1
    assert reporter.due() is None
    clock.now += 1
    assert reporter.due().startswith('training, ')
    assert capsys.readouterr() == ('', 'step 1\n')


def test_counted_work_is_named_with_the_parts_that_it_consists_of(reporter, clock):
    title, rows, inner = Activity('reproduce'), Activity('table', 3, 'rows'), Activity('evaluating', 1200, 'shapes')
    for activity in (title, rows, inner):
        reporter.begin(activity)
    inner.advance()
    clock.now += 2
    assert reporter.due() == 'table: 0 of 3 rows; evaluating: 1 of 1,200 shapes'
    inner.advance()
    rows.advance()
    clock.now += EVERY
    rows.advance()
    assert reporter.due() == 'table: 2 of 3 rows; evaluating: 2 of 1,200 shapes, ETA 39:56'
    within = Activity('scoring')
    reporter.begin(within)
    clock.now += 1
    assert reporter.due() == 'table: 2 of 3 rows; evaluating: 2 of 1,200 shapes, ETA 39:56; scoring'
    reporter.end(within)
    reporter.end(rows)
    clock.now += EVERY
    assert reporter.due() == 'reproduce, 0:17 so far', 'what an exception left within it ends with it'
    reporter.end(inner)
    reporter.end(title)
    assert reporter.due() is None
    reporter.muted = True
    reporter.begin(title)
    clock.now += 60
    assert reporter.due() is None
    reporter.end(title)


@pytest.mark.parametrize('workers', [1, 4])
def test_the_time_left_leaves_out_the_first_steps(clock, workers):
    """The first ones, of several workers at once, take a minute; all others ten seconds."""
    activity = Activity('checking', 20, 'shapes')
    clock.now += 60
    for _ in range(workers):
        clock.now += 0.2
        activity.advance()
    assert activity.eta() == ''
    for _ in range(2):
        clock.now += 9.8
        for _ in range(workers):
            clock.now += 0.2 / workers
            activity.advance()
    left = (20 - 3 * workers) * 10 / workers
    assert activity.eta() == f'ETA {progress.format_seconds(left)}'
    clock.now += 100
    activity.skip(100)
    activity.advance()
    assert activity.eta() < f'ETA {progress.format_seconds(left)}', 'time that was spent otherwise is left out'


def test_a_resumed_count_tells_nothing_of_the_speed(clock):
    activity = Activity('training', 1000, 'steps')
    activity.resume(900)
    clock.now += 30
    activity.advance()
    assert (activity.done, activity.eta()) == (901, '')
    clock.now += 2
    activity.advance()
    assert activity.eta() == 'ETA 3:16'


def test_hours_are_shown():
    assert [progress.format_seconds(seconds) for seconds in (0, 59.6, 3600 + 125)] == ['0:00', '1:00', '1:02:05']


def test_items_come_as_they_are_and_nothing_is_left_behind():
    reporter = progress._reporter
    with working('all'):
        assert list(track('abc', 'reading', 'letters')) == ['a', 'b', 'c']
        half = track(iter([1, 2]), 'counting', 'numbers', 2)
        assert next(half) == 1
        thread = reporter._thread
        assert len(reporter._activities) == 2
    assert not thread.is_alive()
    assert (reporter._activities, reporter._thread) == ([], None)
