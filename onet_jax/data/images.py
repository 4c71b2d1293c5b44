"""Reading pictures into the frame that the networks were trained on. H and W pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_FORMATS = ('jpg', 'jpeg', 'png', 'webp', 'bmp')
WHITE = (255, 255, 255)


def load_image(path: str | Path, size: int) -> np.ndarray:
    """A picture as a square on white: [size, size, 3] float32, RGB in [0, 1].

    What is transparent becomes white and the shorter side is filled with white, as around the renderings that the
    networks learn from; the object should fill most of the picture. Raises FileNotFoundError, or ValueError that names the
    file, for one that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a picture ({"|".join(IMAGE_FORMATS)}), found no such file')
    try:
        with Image.open(path) as image:
            image.load()
            layer = image.convert('RGBA')
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f'{path}: expected a readable picture, found one that is damaged, too large or of another kind ({error}); '
            'export it again as jpg or png'
        ) from error
    square = Image.new('RGBA', (max(layer.size),) * 2, WHITE)
    square.alpha_composite(layer, tuple((max(layer.size) - n) // 2 for n in layer.size))
    # Bilinear with antialiasing, as the official code resizes.
    small = square.convert('RGB').resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 255
