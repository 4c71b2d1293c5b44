"""The manifest of a reconstruction: the status of every input, kept so that nothing is lost when the process is killed.

OUTPUT/manifest.json   {'settings': ..., 'items': {name: {'status': 'done' or 'failed', ...}}, 'written': paths in OUTPUT}
OUTPUT/manifest.log    while a run works, and after one that was killed: a digest of the settings, then {name: item} a line

Writing the whole manifest after each of n items would take n^2 time; a line is appended instead. The caller holds the lock of
the folder.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.geometry.meshes import UPS
from onet_jax.geometry.quality import Quality
from onet_jax.json_files import COUNT, NUMBER, PATH, TEXT, one_of, parse_json, read_json, whole

ADVICE = 'it is not of a reconstruction, or damaged: choose another --output'
DONE = {
    'status': TEXT,
    'mesh': PATH,
    'vertices': COUNT,
    'faces': COUNT,
    'frames?': COUNT,
    'bytes?': whole(0, 2**63),
    'out_of_distribution_score?': NUMBER,
    'up?': one_of(*UPS),
    'quality?': {name: NUMBER for name in Quality._fields},
}
FAILED = {'status': one_of('failed'), 'reason': TEXT}
ITEMS = {'': lambda item: DONE if isinstance(item, dict) and item.get('status') == 'done' else FAILED}
MANIFEST = {'settings': {}, 'items': ITEMS, 'written': [PATH]}


class Manifest:
    """The items of a folder, by name, and `written`: the files that reconstructions have made there, or were about to."""

    def __init__(self, output: Path):
        """Read what earlier runs have left. Raises InputError for files that are no manifest and no log of one."""
        self._output, self._path, self._log = output, output / 'manifest.json', output / 'manifest.log'
        self.items: dict[str, dict] = {}
        self.written: set[str] = set()
        self._settings: object = None
        with suppress(FileNotFoundError):
            found = read_json(self._path, MANIFEST, ADVICE)
            self._settings, self.items, self.written = found['settings'], found['items'], set(found['written'])
        with suppress(FileNotFoundError):
            self._read_log(self._log.read_bytes())

    def _read_log(self, content: bytes) -> None:
        whole, _, _ = content.rpartition(b'\n')  # the last line may be half written
        digest, *lines = whole.split(b'\n')
        if whole and not re.fullmatch(rb'[0-9a-f]{64}', digest):
            raise InputError(f'{self._log}: expected a digest in the first line, found {digest[:40]!r}; {ADVICE}')
        for line in lines if digest == _digest(self._settings) else ():
            self.items |= parse_json(line, ITEMS, str(self._log), ADVICE)

    def leave_out_written(self, sources: list[Source]) -> list[Source]:
        """The inputs that no reconstruction has written there; all where none is left."""
        own = {os.path.abspath(self._output / name) for name in self.written}
        return [source for source in sources if os.path.abspath(source.path) not in own] or sources

    def adopt(self, settings: dict) -> None:
        """Forget the items of other settings."""
        settings = json.loads(json.dumps(settings))  # as they are read again
        if settings != self._settings:
            self._settings, self.items = settings, {}

    def begin(self, replaced: Iterable[str], written: Iterable[str]) -> None:
        """Note the items and the files that will be replaced: after a kill they must not be called done, or of the user."""
        for name in replaced:
            self.items.pop(name, None)
        self.written |= set(written)
        self._save()
        self._log.write_bytes(_digest(self._settings) + b'\n')

    def add(self, name: str, item: dict) -> None:
        """Note the outcome of an input."""
        self.items[name] = item
        try:
            with self._log.open('a') as file:
                file.write(json.dumps({name: item}) + '\n')
        except OSError as error:
            error.filename = str(self._log)  # that of a full disk names no file
            raise

    def end(self) -> None:
        """Write the manifest in place of the log."""
        self._save()
        self._log.unlink()

    def _save(self) -> None:
        write_json(self._path, {'settings': self._settings, 'items': self.items, 'written': sorted(self.written)})


def _digest(settings: object) -> bytes:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest().encode()
