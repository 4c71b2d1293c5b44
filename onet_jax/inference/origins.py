"""Files of a reconstruction: whether its inputs have changed since an earlier run, and what its meshes would replace."""

import os
import unicodedata
from contextlib import suppress
from pathlib import Path

from onet_jax.data.clip_inputs import file_of
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.files import file_state, refuse_replacing
from onet_jax.geometry.companions import find_companions

CHANGED_BY_OTHERS = ('.gltf', '.glb', '.stl', '.jpg', '.jpeg', '.png')  # formats with companion files that matter


def identify(source: Source) -> dict:
    """The identity of an input in the manifest: path, box, sizes and times of modification."""
    return {
        'input': os.path.abspath(source.path),
        'box': source.box and list(source.box),
        'state': [file_state(path) for path in _files_of(source)],
    }


def _files_of(source: Source) -> list[Path]:
    """The file of an input, and those beside it that change its points or its camera; of a folder of frames all files."""
    if source.path.is_dir():
        return sorted(path for path in source.path.iterdir() if path.is_file())
    files = [file_of(source.path)]
    if source.path.suffix.lower() in CHANGED_BY_OTHERS and os.path.isfile(source.path):
        with suppress(OSError):  # its reader says what is wrong
            files += find_companions(source.path)
    return files


def is_done(item: dict | None, source: Source, output: Path, target: Path) -> bool:
    """Whether an entry of the manifest is of this input, as it is now, and its mesh is there."""
    return bool(
        item
        and item['status'] == 'done'
        and output / item['mesh'] == target
        and all(item.get(key) == value for key, value in identify(source).items())
        and target.is_file()
        and target.stat().st_size == item.get('bytes')
    )


def check_targets(targets: dict[Source, Path], ignores_case: bool) -> None:
    """Raises InputError where a mesh would replace another one or an input."""
    folders = [target.with_suffix('') for source, target in targets.items() if source.path.is_dir()]
    inputs = [path for source in targets for path in (source.path, *_files_of(source))]
    refuse_replacing(inputs, [*targets.values(), *folders])
    owners: dict[str, Path] = {}
    for source, target in targets.items():
        name = unicodedata.normalize('NFC', str(target).casefold()) if ignores_case else str(target)
        if name in owners:
            raise InputError(
                f'{target}: expected one input of this name, found {owners[name]} and {source.path}; rename one of them'
            )
        owners[name] = source.path
