"""Progress of long work, in plain lines on stderr: what is being done, how far it is, and when it will be done.

    with working('compiling the training step'):        # work that cannot say how far it is
        ...
    for shape in track(shapes, 'checking', 'shapes'):   # work that is counted
        ...

Activities nest. While there is one a thread prints a line for all of them: soon after a new one has begun, and whenever
nothing was said for `EVERY` seconds. Work that ends before says nothing. Lines and no bars, for they are read in files too. The
estimate of the time that is left (ETA) leaves out the first steps, in which programs are compiled.
"""

import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO, TypeVar

PATIENCE = 0.5  # s, after which a new activity is announced
EVERY = 7.0  # s without a line, on a busy machine some more
TICK = 0.25  # s, between looks at the clock
BURST = 1.0  # s after the first step: what was worked on at the same time ends in it

T = TypeVar('T')


class Activity:
    """One piece of work: what it is, and how many of `total` units are done where they are counted."""

    def __init__(self, what: str, total: int | None = None, unit: str = ''):
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.began = self._last = time.monotonic()
        self._first: float | None = None  # end of the first step
        self._base, self._done_at_base = self.began, 0  # from where the speed is measured

    def resume(self, done: int) -> None:
        """Begin with what was done earlier."""
        self.done = self._done_at_base = done

    def advance(self, count: int = 1) -> None:
        """Count what was done."""
        self._last, self.done = time.monotonic(), self.done + count
        if self._first is None:
            self._first = self._last
        if self._last - self._first <= BURST:
            self._base, self._done_at_base = self._last, self.done

    def skip(self, seconds: float) -> None:
        """Leave out time that was spent otherwise."""
        self._base, self._last = self._base + seconds, self._last + seconds

    def eta(self) -> str:
        """'ETA 1:05', minutes and seconds, by the speed since the first steps; '' where it is not known or nothing is left."""
        steps = self.done - self._done_at_base
        if self.total is None or not steps or self.done >= self.total:
            return ''
        return f'ETA {format_seconds((self.total - self.done) * max(self._last - self._base, 0) / steps)}'

    def describe(self, inner: Sequence['Activity']) -> str:
        """What is done and how far, and the time that is left; where that is not known the time since the beginning.

        inner: the activities within it, which say more of the time than it does.
        """
        counted = '' if self.total is None else f': {self.done:,} of {self.total:,} {self.unit}'
        eta = '' if any(activity.total is not None for activity in inner) else self.eta()
        elapsed = 0 if inner else time.monotonic() - self.began
        so_far = f'{format_seconds(elapsed)} so far' if elapsed >= EVERY / 2 else ''
        return ', '.join(filter(None, (self.what + counted, eta or so_far)))


def format_seconds(seconds: float) -> str:
    """'1:05', or '2:01:05' with hours."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


class Reporter:
    """Decides when a line is due, and prints it from a thread of its own while there are activities."""

    def __init__(self) -> None:
        self.muted = _is_worker()  # it leaves it to its parent
        self._activities: list[Activity] = []  # from the outermost to the innermost
        self._announced: set[str] = set()
        self._said = -EVERY
        self._lock = threading.RLock()  # a generator that is collected ends its activity in any thread
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def begin(self, activity: Activity) -> None:
        with self._lock:
            self._activities.append(activity)
            if self._thread is None:
                self._ended = threading.Event()
                self._thread = threading.Thread(target=self._watch, args=(self._ended,), daemon=True)
                self._thread.start()

    def end(self, activity: Activity) -> None:
        with self._lock:
            if activity in self._activities:  # and with it what an exception has left within it
                del self._activities[self._activities.index(activity) :]
            if self._activities or self._thread is None:
                return
            self._ended.set()
            self._announced.clear()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()  # whoever reads the stream may close it

    def say(self, line: str, stream: TextIO | None = None) -> None:
        """Print a line, after which there is some time until the next one is due."""
        self._said = time.monotonic()
        print(line, file=stream or sys.stderr, flush=True)

    def due(self) -> str | None:
        """The line that is due now."""
        now, activities = time.monotonic(), list(self._activities)
        if self.muted or not activities:
            return None
        newest = activities[-1]
        is_new = newest.what not in self._announced and now - newest.began >= PATIENCE
        if not is_new and now - max(self._said, activities[0].began) < EVERY:
            return None
        self._announced.add(newest.what)
        # What is not counted says nothing beside the work that it consists of.
        shown = [each for each in activities if each is newest or each.total is not None]
        return '; '.join(each.describe(shown[i + 1 :]) for i, each in enumerate(shown))

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(TICK):
            line = self.due()
            if line is not None:
                with suppress(OSError):  # of a reader that has gone
                    self.say(line)


def _is_worker() -> bool:
    # Not imported here: it takes whatever is `__main__` at its first import for the main script, which `runpy` then replaces.
    multiprocessing = sys.modules.get('multiprocessing')
    return multiprocessing is not None and multiprocessing.parent_process() is not None


_reporter = Reporter()
say = _reporter.say


def mute(muted: bool = True) -> None:
    """Print no progress in this process: of several processes the first one does."""
    _reporter.muted = muted


@contextmanager
def working(what: str, total: int | None = None, unit: str = '') -> Iterator[Activity]:
    """Report what the block does, and with a total how much of it: the block counts units by `Activity.advance`."""
    activity = Activity(what, total, unit)
    _reporter.begin(activity)
    try:
        yield activity
    finally:
        _reporter.end(activity)


def track(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """The items, and a report of how many are done. total: of what has no length."""
    if total is None:
        assert isinstance(items, Collection)
        total = len(items)
    with working(what, total, unit) as activity:
        for item in items:
            yield item
            activity.advance()
