"""Input files of a reconstruction: a file, a folder, or the real photos of the paper (section 4.2: KITTI, Online Products).

Bounding boxes are (left, top, right, bottom) in px from the upper left corner of the image. Lists and labels are not trusted:
a malformed line is reported with its file and number, and skipped.
"""

import math
import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from onet_jax.data.images import IMAGE_FORMATS, Box
from onet_jax.errors import InputError

MIN_HEIGHT = 25.0  # px; the KITTI benchmark ignores objects lower than that
NUM_VALUES = 14  # after the type: truncation, occlusion, alpha, 4 of the 2D box, 7 of the 3D box; detectors add a score


class Source(NamedTuple):
    """One thing to reconstruct."""

    name: str  # of the output file without suffix, as CATEGORY/NAME where there is a category
    path: Path
    box: Box | None = None  # the bounding box of the object in an image; None: the whole image


def find_files(path: str | Path, formats: tuple[str, ...]) -> list[Source]:
    """The file itself, or all of a folder that are called like one of the formats, sorted: broken links and pipes too.

    Raises FileNotFoundError where none is.
    """
    path = Path(path)
    if os.path.isfile(path):
        return [Source(path.stem, path)]
    found = sorted(p for p in path.glob('*') if _is_called(p, formats) and not p.is_dir()) if path.is_dir() else []
    if not found:
        raise FileNotFoundError(f'{path}: expected a file or a folder with {"|".join(formats)} files, found none')
    return [Source(p.stem, p) for p in found]


def check_file(path: Path) -> None:
    """Raises InputError for what is there but no file: to read from a pipe would take for ever."""
    if os.path.lexists(path) and not os.path.isfile(path):
        kind = 'a folder' if os.path.isdir(path) else 'a pipe or the like' if os.path.exists(path) else 'a broken link'
        raise InputError(f'{path}: expected a file, found {kind}')


def find_photos(path: str | Path, types: Sequence[str] = ('Car',), max_products: int = 1000) -> list[Source]:
    """The images in `path`, a file or a folder of one of these layouts:                    name of the source

        images                                                as `find_files`               <stem>
        KITTI             cropped_images/<instance>/*         crops, as the official code   <instance>/<stem>
                          image_2/, label_2/<frame>.txt       labelled 2D boxes             <type>/<frame>-<line>
        Online Products   <class>_final.txt, <class>_final/   images that a list names      <class>/<name>

    types: of labelled objects; Car is the only type of KITTI that is a class of the paper. max_products: the first so many of
    each list, by default as in the official code. Objects lower than `MIN_HEIGHT` are skipped, and so are malformed lines,
    which are reported. Raises FileNotFoundError where nothing is left, InputError for a list or labels that are not text.
    """
    path = Path(path)
    lists = sorted(path.glob('?*_final.txt'))
    if (path / 'cropped_images').is_dir():
        found, expected = _find_crops(path / 'cropped_images'), 'crops in cropped_images/<instance>'
    elif (path / 'image_2').is_dir():
        found = _find_labelled(path, types)
        expected = f'{"|".join(types)} of at least {MIN_HEIGHT:g} px in label_2/<frame>.txt'
    elif any(file.with_suffix('').is_dir() for file in lists):
        found = chain.from_iterable(islice(_find_products(file), max_products) for file in lists)
        expected = 'pictures of the lists <class>_final.txt in <class>_final'
    else:
        return find_files(path, IMAGE_FORMATS)
    photos = list(found)
    if not photos:
        raise FileNotFoundError(f'{path}: expected {expected}, found none')
    return photos


def _find_crops(folder: Path) -> Iterator[Source]:
    for path in sorted(p for p in folder.glob('*/*') if _has_format(p, IMAGE_FORMATS)):
        yield Source(f'{path.parent.name}/{path.stem}', path)


def _find_labelled(root: Path, types: Sequence[str]) -> Iterator[Source]:
    pictures = {p.stem: p for p in (root / 'image_2').iterdir() if _has_format(p, IMAGE_FORMATS)}
    for labels in sorted((root / 'label_2').glob('*.txt')):
        if labels.stem not in pictures:
            print(f'{labels}: expected the picture {root / "image_2" / labels.stem}.png, found none', flush=True)
            continue
        for number, line in read_lines(labels):
            if not line:
                continue
            try:
                kind, box = _parse_label(line)
            except ValueError as error:
                print(f'{labels}, line {number}: {error}', flush=True)
                continue
            if kind in types and box[3] - box[1] >= MIN_HEIGHT:
                yield Source(f'{kind.lower()}/{labels.stem}-{number:02d}', pictures[labels.stem], box)


def _parse_label(line: str) -> tuple[str, Box]:
    """The type and the 2D box of a line of KITTI labels. Raises InputError for a malformed line."""
    kind, *numbers = line.split()
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise InputError(f'expected numbers after the type of an object, found {line!r}') from error
    left, top, right, bottom = values[3:7] if len(values) in (NUM_VALUES, NUM_VALUES + 1) else (math.nan,) * 4
    if not (-math.inf < left < right < math.inf and -math.inf < top < bottom < math.inf):
        raise InputError(
            f'expected the type of an object and {NUM_VALUES} or {NUM_VALUES + 1} numbers, the fourth to seventh of them its '
            f'box (left < right, top < bottom), found {line!r}'
        )
    return kind, (left, top, right, bottom)


def _find_products(file: Path) -> Iterator[Source]:
    folder, seen = file.with_suffix(''), set()
    for number, name in read_lines(file):
        where, path = f'{file}, line {number}', folder / name
        if not name:
            print(f'{where}: expected a picture, found a blank line', flush=True)
        elif Path(name).is_absolute() or '..' in Path(name).parts:
            print(f'{where}: expected a name in {folder}, found {name!r}', flush=True)
        elif not _has_format(path, IMAGE_FORMATS):
            print(f'{where}: expected the picture {path} ({"|".join(IMAGE_FORMATS)}), found none', flush=True)
        elif path in seen:
            print(f'{where}: expected each picture once, found {name} again', flush=True)
        else:
            seen.add(path)
            category = folder.name.removesuffix('_final')
            yield Source(f'{category}/{"-".join(Path(name).with_suffix("").parts)}', path)


def _is_called(path: Path, formats: tuple[str, ...]) -> bool:
    return path.suffix.lower()[1:] in formats and not path.name.startswith('._')  # ._NAME is of macOS


def _has_format(path: Path, formats: tuple[str, ...]) -> bool:
    # os.path.isfile: False for a name that is too long for the file system, where pathlib raises.
    return _is_called(path, formats) and os.path.isfile(path)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text without surrounding whitespace) of each line. Raises InputError for a file that is not UTF-8."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except ValueError as error:
        raise InputError(f'{path}: expected text in UTF-8, found other bytes ({error})') from error
    for number, line in enumerate(text.splitlines(), start=1):
        yield number, line.strip()
