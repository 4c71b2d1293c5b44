"""Where the inputs of a reconstruction come from: a file, a folder of files, or the photos of the paper's section 4.3.

Boxes are (left, top, right, bottom) in px, the origin at the upper left corner of the picture.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from onet_jax.data.images import IMAGE_FORMATS

MAX_PRODUCTS = 1000  # of each class, as the official code takes
MIN_HEIGHT = 25.0  # px; KITTI's benchmark looks at no lower object
LABEL_FIELDS = 15  # of a KITTI label: type, truncation, occlusion, alpha, 4 of the box, 3 + 3 + 1 of the pose


class Source(NamedTuple):
    """One thing to reconstruct."""

    name: str  # of the output, without a suffix; unique, with the category before a slash where there is one
    path: Path
    box: tuple[float, float, float, float] | None = None  # the part of a picture that shows it; all of it where None


def find_files(path: str | Path, formats: tuple[str, ...]) -> list[Source]:
    """The file itself, or all files of a folder in one of the formats, sorted. Raises FileNotFoundError where none is."""
    path = Path(path)
    if path.is_file():
        return [Source(path.stem, path)]
    found = sorted(p for p in path.glob('*') if p.suffix.lower()[1:] in formats) if path.is_dir() else []
    if not found:
        raise FileNotFoundError(f'{path}: expected a file or a folder with {"|".join(formats)} files, found none')
    return [Source(p.stem, p) for p in found]


def find_photos(path: str | Path) -> list[Source]:
    """The pictures of a file or folder, which is one of

        pictures                                                  as `find_files`
        KITTI         image_2/, cropped_images/<instance>/*       crops, as the official code reads them
                      image_2/, label_2/<frame>.txt               the objects that the labels frame
        Online Products   <class>_final.txt, <class>_final/<name>     at most `MAX_PRODUCTS` of each list

    What is listed but of no use is reported. Raises FileNotFoundError where nothing is left, ValueError for a damaged label.
    """
    path = Path(path)
    lists = sorted(path.glob('*_final.txt'))
    if (path / 'image_2').is_dir():
        if (path / 'cropped_images').is_dir():
            found, expected = list(_find_crops(path / 'cropped_images')), 'crops in cropped_images/<instance>'
        else:
            found, expected = (
                list(_find_labelled(path)),
                f'objects of {MIN_HEIGHT:g} px and more in label_2/<frame>.txt',
            )
    elif lists:
        found, expected = (
            [photo for file in lists for photo in _find_products(file)],
            'pictures of the lists *_final.txt',
        )
    else:
        return find_files(path, IMAGE_FORMATS)
    if not found:
        raise FileNotFoundError(f'{path}: expected {expected}, found none')
    return found


def _find_crops(folder: Path) -> Iterator[Source]:
    for path in sorted(p for p in folder.glob('*/*') if p.suffix.lower()[1:] in IMAGE_FORMATS):
        yield Source(f'{path.parent.name}/{path.stem}', path)


def _find_labelled(root: Path) -> Iterator[Source]:
    pictures = {p.stem: p for p in (root / 'image_2').iterdir() if p.suffix.lower()[1:] in IMAGE_FORMATS}
    for labels in sorted((root / 'label_2').glob('*.txt')):
        if labels.stem not in pictures:
            tqdm.write(f'{labels}: expected the picture {root / "image_2" / labels.stem}.png, found none')
            continue
        for number, line in enumerate(labels.read_text().splitlines(), start=1):
            kind, *numbers = line.split() or ['DontCare']
            if kind == 'DontCare':
                continue
            try:
                values = [float(number) for number in numbers]
            except ValueError:
                values = []
            left, top, right, bottom = values[3:7] if len(values) + 1 >= LABEL_FIELDS else (0, 0, 0, 0)
            if not (left < right and top < bottom):
                raise ValueError(
                    f'{labels}, line {number}: expected the type of an object and {LABEL_FIELDS - 1} numbers with a box left '
                    f'top right bottom, found {line!r}'
                )
            if bottom - top >= MIN_HEIGHT:
                yield Source(
                    f'{kind.lower()}/{labels.stem}-{number:02d}', pictures[labels.stem], (left, top, right, bottom)
                )


def _find_products(file: Path) -> Iterator[Source]:
    category = file.stem.removesuffix('_final')
    names = [name.strip() for name in file.read_text().splitlines()]
    for number, name in enumerate(names[:MAX_PRODUCTS], start=1):
        path = file.with_suffix('') / name
        if not name:
            tqdm.write(f'{file}, line {number}: expected a picture, found a blank line')
        elif Path(name).is_absolute() or '..' in Path(name).parts:
            tqdm.write(f'{file}, line {number}: expected a name in {file.with_suffix("")}, found {name!r}')
        elif not path.is_file():
            tqdm.write(f'{file}, line {number}: expected the picture {path}, found no such file')
        else:
            yield Source(f'{category}/{"-".join(Path(name).with_suffix("").parts)}', path)
