"""Checkpoints on disk: written atomically, and verified by SHA-256 before they are read.

DIR/STEP/state              the arrays, as orbax writes them
DIR/STEP/metrics/metrics    JSON: the means over the validation split, {} where there was no validation
DIR/STEP/digest.json        JSON: name of each file in DIR/STEP -> its SHA-256
DIR/STEP.unfinished*        a save in progress or interrupted; DIR/STEP.deleted, a removal

A folder is renamed to its bare number when all of it is written: a process killed at any moment leaves complete checkpoints
only. With several processes all write the arrays and process 0 the rest, on a shared file system. The digests are there because
orbax does not detect corrupted arrays: of 200 single bits flipped in their file, 199 came back as other weights without an
error.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.json_files import NUMBER, TEXT, read_json
from onet_jax.parallel import from_first_process, is_first_process, tell, wait_for_all

NUM_LATEST = 2  # that are kept: the last but one is used when the latest is damaged
DIGEST, UNFINISHED, DELETED = 'digest.json', '.unfinished', '.deleted'


class Checkpoint(NamedTuple):
    """A complete and sound checkpoint."""

    step: int
    path: Path
    metrics: dict  # means over the validation split with the 'score', more is better; {} where there was no validation


class Checkpointer:
    """The sound checkpoints of a folder. With `writes` it also removes interrupted saves; otherwise it changes nothing.

    With several processes each makes one, and all call `save` and `load`.
    """

    def __init__(self, directory: Path, *, writes: bool):
        """Finds the sound checkpoints, with `writes` in process 0 for all. Prints a line for each damaged one.

        Raises InputError, with the damage of each, where there are checkpoints but none is sound.
        """
        self.directory, self._writes = directory, writes
        found = self._find() if is_first_process() or not writes else []
        found = from_first_process(found) if writes else found
        self.checkpoints = [Checkpoint(step, directory / str(step), metrics) for step, metrics in found]

    def _find(self) -> list[tuple[int, dict]]:
        """Step and metrics of each sound checkpoint."""
        sound, damages, directory = [], [], self.directory
        for step in find_steps(directory):
            path = directory / str(step)
            damage = find_damage(path)
            if damage is None:
                sound.append((step, _read_metrics(path)))
            elif path.exists():  # else a run that is writing has just removed it
                damages.append(damage)
        if damages and not sound:
            raise InputError(
                f'{directory}: expected a sound checkpoint, found damaged ones only:\n  ' + '\n  '.join(damages) + '\n'
                'Restore the folder from a copy, or train anew in another --workdir.'
            )
        for damage in damages:
            tell(f'WARNING: {damage}: this checkpoint is not used, another one is')
        return sound

    def __enter__(self) -> 'Checkpointer':
        self._tidy()
        return self

    def __exit__(self, *_: object) -> None:
        # After a failed save a thread of orbax may still be writing: the next start removes what it leaves.
        self._tidy(ignore_errors=True)

    @property
    def latest(self) -> Checkpoint | None:
        """The sound checkpoint of the highest step; None where there is none."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def best(self) -> Checkpoint | None:
        """The sound one with the highest 'score', of equal ones the later; the latest where none was validated, or None."""
        validated = [c for c in self.checkpoints if c.metrics]
        return max(validated, key=lambda c: (c.metrics['score'], c.step)) if validated else self.latest

    def save(self, step: int, state: Any, *, metrics: dict | None = None) -> None:
        """Write a checkpoint and read its index again, then remove all but it, the one before and the best one.

        A damaged checkpoint of the same step is replaced. Raises OSError where it cannot be written; the others stay.
        """
        path, unfinished = self.directory / str(step), self.directory / f'{step}{UNFINISHED}'
        try:
            with _plain_name(self.directory) as directory:
                ocp.save(directory / unfinished.name, state)
                wait_for_all(f'the arrays of step {step} are written')
                stored = ocp.metadata(directory / unfinished.name).metadata if is_first_process() else state
            if stored is None or describe_differences(stored, state):
                raise OSError('arrays are missing when they are read again')
            if is_first_process():
                write_json(unfinished / 'metrics' / 'metrics', metrics or {})
                write_json(unfinished / DIGEST, digest_files(unfinished))
                if path.exists():
                    _delete(path)
                unfinished.rename(path)
            wait_for_all(f'checkpoint {step} is complete')
        except (OSError, ValueError) as error:
            # tensorstore raises errors of the operating system as ValueError.
            if isinstance(error, ValueError) and 'os_error_code' not in str(error):
                raise
            left = f'step {self.latest.step} is the latest checkpoint, and intact' if self.latest else 'it is the first'
            raise OSError(
                f'{path}: expected to write a checkpoint, found: {str(error).split(" [", maxsplit=1)[0]}; {left}. Make room '
                'there and give the same command again.'
            ) from error
        self.checkpoints.append(Checkpoint(step, path, metrics or {}))
        self.checkpoints = [c for c in self.checkpoints if c in self.checkpoints[-NUM_LATEST:] or c == self.best]
        if is_first_process():
            for other in set(find_steps(self.directory)) - {c.step for c in self.checkpoints}:
                _delete(self.directory / str(other))

    def metadata(self, step: int) -> Any:
        """The metadata of orbax: its `.metadata` is the tree of shapes and dtypes, of plain dicts and lists."""
        with _plain_name(self.directory) as directory:
            return ocp.metadata(directory / str(step))

    def load(self, step: int, abstract: Any) -> Any:
        """The arrays of a checkpoint with the structure, types and placement of `abstract`."""
        with _plain_name(self.directory) as directory:
            return ocp.load(directory / str(step), abstract)

    def _tidy(self, *, ignore_errors: bool = False) -> None:
        """Remove what interrupted saves and removals have left on the disk."""
        if self._writes and is_first_process():
            for pattern in (f'[0-9]*{UNFINISHED}*', f'[0-9]*{DELETED}'):
                for path in self.directory.glob(pattern):
                    shutil.rmtree(path, ignore_errors=ignore_errors)


@contextmanager
def _plain_name(directory: Path) -> Iterator[Path]:
    """A path of the folder that orbax and tensorstore take as it is: of names that are not plain, a symbolic link.

    They take brackets for a pattern, a backslash for a separator, and no names that are not UTF-8.
    """
    if re.fullmatch(r'[\w/. +=,@~-]+', str(directory), re.ASCII):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix='onet_jax-') as folder:
        link = Path(folder) / 'checkpoints'
        link.symlink_to(directory)
        yield link


def find_steps(directory: Path) -> list[int]:
    """Steps of the complete checkpoints of a folder, in order, sound or not; none where there is no folder."""
    return sorted(int(path.name) for path in directory.glob('[0-9]*') if path.name.isdecimal())


def digest_files(path: Path) -> dict[str, str]:
    """Name of each file below a folder -> its SHA-256, in hexadecimal digits."""
    files = sorted(file for file in path.rglob('*') if file.is_file() and file.name != DIGEST)
    return {str(file.relative_to(path)): _digest(file) for file in files}


def find_damage(path: Path) -> str | None:
    """A message, beginning with the file, on what is wrong with a checkpoint; None for a sound one."""
    listing = path / DIGEST
    try:
        digests, found = read_json(listing, {'': TEXT}), digest_files(path)
    except InputError:
        return f'{listing}: expected the digests of a checkpoint, found a damaged file'
    except OSError as error:
        what = 'the digests of a checkpoint' if error.filename == str(listing) else 'a file of a checkpoint'
        return f'{error.filename}: expected {what}, found none that can be read ({error.strerror})'
    for name, digest in digests.items():
        if name not in found:
            return f'{path / name}: expected a file of a checkpoint, found none'
        if found[name] != digest:
            return f'{path / name}: expected the content that was saved, found another'
    return None


def describe_differences(stored: Any, like: Any) -> list[str]:
    """Lines on the arrays that are in one of two states only, or differ in shape; [] where the states fit.

    stored: the tree of `Checkpointer.metadata`; like: the state that is to be restored.
    """
    old, new = _shapes(stored), _shapes(like)
    return [
        f'  {name}: {old.get(name, "(absent)")} in the checkpoint, {new.get(name, "(absent)")} asked for'
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


def _shapes(tree: Any) -> dict[str, list[int]]:
    """Name of each array -> its shape; a field of a tuple and a key of a dict have the same name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): list(leaf.shape) for path, leaf in leaves}


def _read_metrics(path: Path) -> dict:
    file = path / 'metrics' / 'metrics'
    return read_json(file, lambda means: {'score' if means else 'score?': NUMBER, '': NUMBER}) if file.exists() else {}


def _delete(path: Path) -> None:
    """Rename, then remove: an interrupted removal leaves no incomplete checkpoint."""
    doomed = path.with_name(path.name + DELETED)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _digest(file: Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
