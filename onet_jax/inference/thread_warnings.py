"""Warnings by the thread that raises them: `warnings.catch_warnings` catches those of all threads."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_own = threading.local()  # of each thread: the texts that `caught_warnings` collects


@contextmanager
def warnings_by_thread() -> Iterator[None]:
    """Within the block every thread may catch its own warnings; those that no thread catches are shown as before it."""
    show = warnings.showwarning

    def note(message, category, *place, **more):
        texts = getattr(_own, 'texts', None)
        if texts is None:
            show(message, category, *place, **more)
        else:
            texts.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = note
        yield


@contextmanager
def caught_warnings() -> Iterator[list[str]]:
    """The texts of the warnings of this thread in the block, within `warnings_by_thread`."""
    texts: list[str] = []
    _own.texts = texts
    try:
        yield texts
    finally:
        _own.texts = None
