"""Unreadable examples of a dataset: reported, counted, and left out up to a limit (`--max_bad_examples`)."""

from collections.abc import Callable
from typing import Any

from onet_jax.errors import InputError
from onet_jax.parallel import tell


class BadExamples:
    """The examples that a run leaves out. They depend on the files alone, not on the order in which these are read."""

    def __init__(self, limit: int = 0):
        """limit: how many may be left out. Raises InputError for a negative number."""
        if limit < 0:
            raise InputError(f'--max_bad_examples: expected a number of at least 0, found {limit}')
        self.limit = limit
        self.reasons: dict[str, str] = {}  # 'category/name' -> what is wrong, with the name of the file

    def attempt(self, name: str, read: Callable[[], Any]) -> Any:
        """read(), or None if it raises FileNotFoundError or InputError. Other errors are bugs and pass through.

        Raises InputError when there are more bad examples than the limit.
        """
        try:
            return read()
        except (FileNotFoundError, InputError) as error:
            self.add(name, str(error))
            return None

    def add(self, name: str, reason: str) -> None:
        """Count a bad example and print one line for it. Raises InputError, naming all of them, beyond the limit."""
        if name in self.reasons:
            return
        self.reasons[name] = reason
        if len(self.reasons) > self.limit:
            raise InputError(
                '\n'.join(self.reasons.values())
                + f'\nThese are more bad examples than --max_bad_examples={self.limit}; '
                'repair them (`onet check` finds all), or leave them out by a higher number.'
            )
        tell(f'left out {name}, number {len(self.reasons)} of at most {self.limit}: {reason}')
