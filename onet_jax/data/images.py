"""Photos as inputs: square, on white, as the renderings that the networks are trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.textures import CODECS, to_eight_bits

IMAGE_FORMATS = ('jpg', 'jpeg', 'png', 'webp', 'bmp')
MAX_EDGE = 10_000  # px: an image and its square on white take 1.5 GB at most
WHITE = (255, 255, 255)

Box = tuple[float, float, float, float]  # left, top, right, bottom in px


def load_image(path: str | Path, size: int, box: Box | None = None) -> np.ndarray:
    """Read an image, or the part of it in a box, as a square on white: [size, size, 3] float32, RGB in [0, 1].

    A photo is turned as its EXIF orientation says, 16 bits of grey become 8. Transparent pixels become white and the shorter
    side is padded with white, as the background of the training renderings is; the object should fill most of the image. The
    official code resizes photos to a square without keeping their aspect ratio, which distorts the shape. box: left, top,
    right, bottom in px. Raises FileNotFoundError, or InputError that names the file, for an image that cannot be read or a box
    outside of it.
    """
    path = Path(path)
    layer = _open_layer(path)
    if box is not None:
        layer = layer.crop(_whole_pixels(path, box, layer.size))
    square = Image.new('RGBA', (max(layer.size),) * 2, WHITE)
    square.alpha_composite(layer, tuple((max(layer.size) - n) // 2 for n in layer.size))
    # Bilinear with antialiasing, as the official code resizes.
    small = square.convert('RGB').resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 255


def load_layer(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Read a picture at a size (width, height) in px: [H, W, 4] uint8, colours times alpha, averaged over areas.

    Raises as `load_image`.
    """
    layer = np.asarray(_open_layer(Path(path)), np.float32)
    layer[..., :3] *= layer[..., 3:] / 255  # what is transparent has no colour that an average could see
    bands = [Image.fromarray(band) for band in np.moveaxis(layer, -1, 0)]
    small = [np.asarray(band.resize(size, Image.Resampling.BOX)) for band in bands]
    return np.round(np.stack(small, axis=-1)).astype(np.uint8)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height in px, as `load_layer` sees them. Raises as `load_image`."""
    return _open(Path(path), lambda image: image.size)


def _open_layer(path: Path) -> Image.Image:
    return _open(path, lambda image: to_eight_bits(image).convert('RGBA'))


def _open(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    """What a function reads of a picture that is turned as its EXIF orientation says. Raises as `load_image`."""
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a picture ({"|".join(IMAGE_FORMATS)}), found no such file')
    try:
        with Image.open(path, formats=CODECS) as file:
            if max(file.size) > MAX_EDGE:
                raise InputError(
                    f'{path}: expected at most {MAX_EDGE} px on a side, found {file.width} x {file.height}; make it smaller'
                )
            return read(ImageOps.exif_transpose(file))  # a camera that was turned says so beside the pixels
    except InputError:
        raise
    except Exception as error:  # a damaged picture makes Pillow raise whatever it likes
        raise InputError(
            f'{path}: expected a readable picture, found one that is damaged, too large or of another kind ({error}); '
            'export it again as jpg or png'
        ) from error


def _whole_pixels(path: Path, box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of an image of `size` (width, height) that a box touches. Raises InputError for a box outside of it."""
    low, high = np.clip(np.reshape(box, (2, 2)), 0, size)
    if not (low < high).all():
        raise InputError(f'{path}: expected a box in the picture of {size[0]} x {size[1]} px, found {box}')
    return (*np.floor(low).astype(int).tolist(), *np.ceil(high).astype(int).tolist())
