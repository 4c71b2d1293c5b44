"""Numbers in text files: ragged rows, parsed by NumPy. R rows, M numbers in all of them.

Text stays bytes, since the names and comments of a file may be in any encoding.
"""

import codecs
import re
import warnings
from typing import NamedTuple

import numpy as np

from onet_jax.errors import InputError

NEWLINE, SPACE, TAB, SLASH = b'\n \t/'
MARKS = {codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16'}


class Rows(NamedTuple):
    """The numbers of each line of a text; a blank line is a row of none."""

    values: np.ndarray  # [M] float64 or int64
    sizes: np.ndarray  # [R] int64
    starts: np.ndarray  # [M] int64, where each number begins in the text

    def columns(self, num: int, what: str) -> np.ndarray:
        """The first `num` numbers of each row, [R, num]. Raises InputError for a row of fewer."""
        if (self.sizes < num).any():
            row = int(np.argmax(self.sizes < num))
            raise InputError(f'expected at least {num} numbers for {what} {row + 1}, found {self.sizes[row]}')
        if (self.sizes == self.sizes[:1]).all():
            return self.values.reshape(len(self.sizes), int(self.sizes[0]) if len(self.sizes) else num)[:, :num]
        return self.values[(np.cumsum(self.sizes) - self.sizes)[:, None] + np.arange(num)]


def decode(content: bytes) -> bytes:
    """The text of a file in UTF-8, or another superset of ASCII, without byte order mark; lines end with a newline alone."""
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            content = content.decode(encoding).encode()
    if b'\r' in content:
        content = content.replace(b'\r\n', b'\n').replace(b'\r', b'\n')
    if b'\0' in content[:1000]:
        raise InputError('expected text, found zero bytes')
    return content


def without_comments(text: bytes, mark: bytes = b'#') -> bytes:
    """The text without what stands between a mark and the end of its line."""
    return re.sub(re.escape(mark) + rb'[^\n]*', b'', text) if mark in text else text


def parse_rows(text: bytes, dtype: type = np.float64) -> Rows:
    """Numbers that are separated by white space. Raises InputError that quotes what is no number."""
    padded = np.frombuffer(b'\n' + text + (b'' if text[-1:] in (b'', b'\n') else b'\n'), np.uint8)
    blank = padded <= SPACE
    starts = np.flatnonzero(blank[:-1] > blank[1:])
    ends = np.flatnonzero(padded[1:] == NEWLINE)
    sizes = np.diff(np.searchsorted(starts, ends), prepend=0)
    return Rows(_parse(text, dtype, len(starts)), sizes, starts)


def _parse(text: bytes, dtype: type, num: int) -> np.ndarray:
    if not num:
        return np.zeros(0, dtype)
    values: np.ndarray = np.zeros(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', DeprecationWarning)  # what NumPy 2.0 does with text that is no number
            values = np.fromstring(text, dtype, sep=' ')
    except (ValueError, DeprecationWarning):
        pass
    if len(values) == num:
        return values
    if dtype is not np.float64:
        return _parse(text, np.float64, num)
    bad = next((word for word in text.split() if not is_number(word)), b'')
    raise InputError(f'expected numbers, found {bad[:40].decode(errors="replace")!r}')


def is_number(word: bytes) -> bool:
    """Whether it is a decimal number, NaN or infinity."""
    return re.fullmatch(rb'(?i)[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf(inity)?)', word) is not None


class Lines:
    """The lines of a text, to be told apart by their first word; white space before it does not count."""

    def __init__(self, text: bytes):
        self._split(text)
        if np.isin(self.bytes[self.starts], [SPACE, TAB]).any():
            self._split(re.sub(rb'(?m)^[ \t]+', b'', text))

    def _split(self, text: bytes) -> None:
        self.text = text + b'\n'
        self.bytes = np.frombuffer(self.text, np.uint8)
        ends = np.flatnonzero(self.bytes == NEWLINE)
        self.starts = np.concatenate([[0], ends[:-1] + 1])
        self.lengths = np.diff(ends, prepend=-1)

    def begin_with(self, word: bytes) -> np.ndarray:
        """Whether the first word of each line is this one. [lines] bool."""
        found = self.lengths > len(word)
        rest = self.starts[found]
        ok = self.bytes[rest + len(word)] <= SPACE
        for place, letter in enumerate(word):
            ok &= self.bytes[rest + place] == letter
        found[found] = ok
        return found

    def after(self, word: bytes, chosen: np.ndarray) -> bytes:
        """The chosen lines, without the word with which they begin."""
        keep = np.repeat(chosen, self.lengths)
        for place in range(len(word)):
            keep[self.starts[chosen] + place] = False
        return self.bytes[keep].tobytes()
