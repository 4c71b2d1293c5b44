"""JSON files that are not trusted: parsed, and checked against a schema before anything is used.

The schema of a value is a `Value`; [schema] for a list; for an object {name: schema}, of which 'name?' may be absent and ''
stands for all other names, which may have any value by default; or a function of the value that returns its schema.
"""

import json
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from onet_jax.errors import InputError

MAX_NESTING = 32  # lists and objects in each other
MAX_NAME = 240  # bytes of UTF-8: 255, less a suffix and what a temporary file adds
# Names of a path, a drive, a device (of Windows, whatever follows a dot), and of this folder or the one above.
BAD_NAME = re.compile(r'.*[/\\].*|[a-z]:.*|(con|prn|aux|nul|com\d|lpt\d) *(\..*)?|[. ]*', re.IGNORECASE)
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong = 2, 80, 40
PLAIN_NAME = re.compile(r'[\w-]{5,50}')  # decides most cases at once


class Value(NamedTuple):
    """The schema of a value."""

    expected: str  # in words
    fits: Callable[[Any], bool]


def number(low: float = -1e300, high: float = 1e300, kinds: tuple[type, ...] = (int, float)) -> Value:
    """A number from `low` to `high`."""
    what = 'a number' if float in kinds else 'a whole number'
    return Value(f'{what} from {low:g} to {high:g}', lambda value: type(value) in kinds and low <= value <= high)


def whole(low: int = 0, high: int = 2**31 - 1) -> Value:
    """A whole number from `low` to `high`."""
    return number(low, high, (int,))  # not bool, of which True is an instance of int


def one_of(*texts: str) -> Value:
    """One of some texts."""
    return Value(f'one of {list(texts)}', lambda value: isinstance(value, str) and value in texts)


def is_file_name(name: str) -> bool:
    """Whether a text can be the name of a file in any folder: no path, control character or device, and not too long."""
    if PLAIN_NAME.fullmatch(name):
        return True
    # What is not UTF-8 is not printable.
    return name.isprintable() and len(name.encode()) <= MAX_NAME and not BAD_NAME.fullmatch(name)


def _is_path(value: Any) -> bool:
    try:
        return isinstance(value, str) and value != '' and b'\0' not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


ANY = Value('a value', lambda value: True)
TEXT = Value('a text', lambda value: isinstance(value, str))
FLAG = Value('true or false', lambda value: isinstance(value, bool))
COUNT = whole()
NUMBER = Value('a number', lambda value: type(value) in (int, float))  # or NaN or infinite
PROBABILITY = Value('a probability between 0 and 1', lambda value: type(value) in (int, float) and 0 < value < 1)
PATH = Value('a path', _is_path)
FILE_NAME = Value('the name of a file, without folders', lambda value: isinstance(value, str) and is_file_name(value))


def read_json(path: str | Path, schema: Any, advice: str = 'restore the file from a copy') -> Any:
    """The content of a file, checked against a schema. Raises OSError where it cannot be read, and as `parse_json`."""
    return parse_json(Path(path).read_bytes(), schema, str(path), advice)


def parse_json(content: bytes, schema: Any, where: str, advice: str) -> Any:
    """Parse JSON, in UTF-8 with or without byte order mark, and check it against a schema.

    Raises InputError that says where it is from, the key, what was expected, what was found, and advice.
    """
    try:
        value = json.loads(content.decode('utf-8-sig'), object_pairs_hook=_distinct)
        check_json(value, schema)
    except InputError as error:
        raise InputError(f'{where}: {error}; {advice}') from error
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where}: expected JSON, found a damaged file ({error}); {advice}') from error
    return value


def check_json(value: Any, schema: Any, key: str = '', depth: int = 0) -> None:
    """Raises InputError, naming the key, for a value that does not have the schema."""
    if callable(schema):
        schema = schema(value)
    if isinstance(schema, Value):
        expected, fits = schema.expected, schema.fits(value)
    elif isinstance(schema, dict):
        expected, fits = 'an object', isinstance(value, dict)
    else:
        expected, fits = 'a list', isinstance(value, list)
    if depth > MAX_NESTING:
        expected, fits = f'at most {MAX_NESTING} lists and objects in each other', False
    if not fits:
        raise InputError(f'{_where(key)}expected {expected}, found {_SHORT.repr(value)}')
    if isinstance(schema, dict):
        known = {name.removesuffix('?'): of for name, of in schema.items() if name}
        # In the order of the schema: of a file of another version, the version is named.
        for name in [*known, *(name for name in value if name not in known)]:
            if name in value:
                of = known.get(name, schema.get('', ANY))
                check_json(value[name], of, f'{key}.{name}' if key else name, depth + 1)
            elif name in schema:
                raise InputError(f'{_where(key)}expected the key {name!r}, found none')
    elif isinstance(schema, list) or (schema is ANY and isinstance(value, list | dict)):
        for name, item in enumerate(value) if isinstance(value, list) else value.items():
            check_json(item, ANY if schema is ANY else schema[0], f'{key}[{name}]', depth + 1)


def _where(key: str) -> str:
    return f'{key if key.isprintable() and len(key) <= 80 else _SHORT.repr(key)}: ' if key else ''


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f'expected every key once, found {_SHORT.repr(name)} again')
    return content
