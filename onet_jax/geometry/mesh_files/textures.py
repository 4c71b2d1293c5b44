"""Textures of meshes: pictures beside or inside a mesh file, and the vertices at the seams of their coordinates."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import GREY_RGBA, Polygons, check_mesh

CODECS = ('PNG', 'JPEG', 'WEBP', 'BMP')  # Pillow hands others, such as PostScript, to a program that runs them
MAX_PIXELS = 1 << 27  # of all textures of a file: 400 MB


def file_beside(path: Path, name: str) -> Path | None:
    """The file that a mesh file names: in its folder, or below. None where there is none."""
    file = Path(os.path.abspath(path.parent / name.replace('\\', '/')))
    # os.path.isfile: False for a name that is too long, where pathlib raises.
    return file if file.is_relative_to(os.path.abspath(path.parent)) and os.path.isfile(file) else None


def tell_missing(path: Path, name: str) -> None:
    """Print that a file names a texture that it does not come with."""
    print(f'{path}: the texture {name!r} is missing and not used; put it beside the file', flush=True)


def own_colour(colour: np.ndarray) -> np.ndarray:
    """The colour [4] uint8 of a material without its texture: white, the factor of most textures, says nothing."""
    return GREY_RGBA if (colour[:3] == 255).all() else colour


class Textures:
    """The textures of one file, which share a bound on their pixels."""

    def __init__(self) -> None:
        self.num_pixels = 0

    def open(self, source: Path | bytes | None, name: object) -> Image.Image | None:
        """A texture, decoded. None where there is none; also, with a printed line, where it is damaged or too large.

        A mesh is used without such a texture.
        """
        if source is None:
            return None
        try:
            file = source if isinstance(source, Path) else io.BytesIO(source)
            with Image.open(file, formats=(*CODECS, 'TGA')) as image:
                if self.num_pixels + image.width * image.height > MAX_PIXELS:
                    raise InputError(f'{image.width} x {image.height} px, more than {MAX_PIXELS} in all')
                image.load()
                image = to_eight_bits(image)
        except Exception as error:  # a damaged picture makes Pillow raise whatever it likes
            print(f'{name}: a texture is not used ({error})', flush=True)
            return None
        self.num_pixels += image.width * image.height
        return image


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bits with 8, which its transparent colour, where it has one, has, too. Others as they are."""
    clear = image.info.get('transparency')
    if image.mode.startswith('I'):  # grey, which conversion would clip
        values = np.asarray(image)
        found = Image.fromarray((values // 257 + (values % 257 > 128)).astype(np.uint8))  # rounded, without floats
        if clear is not None:
            found.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return found
    if isinstance(clear, tuple) and max(clear) > 255:  # of the pixels Pillow keeps the upper bytes
        image.info['transparency'] = tuple(value >> 8 for value in clear)
    return image


def split_at_seams(mesh: Polygons, uv: np.ndarray, numbers: np.ndarray) -> Polygons:
    """A mesh whose vertices have one texture coordinate each: `uv` [K, 2], and which of them each corner has, [C].

    Raises InputError for indices that are out of range.
    """
    check_mesh(mesh.vertices, mesh.corners)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(uv)):
        raise InputError(
            f'expected texture coordinates 0 to {len(uv) - 1}, found {numbers.min()} to {numbers.max()}; export it again'
        )
    used, corners = np.unique(mesh.corners * len(uv) + numbers, return_inverse=True)
    vertices, colours = used // len(uv), mesh.vertex_colours
    return mesh._replace(
        vertices=mesh.vertices[vertices],
        corners=corners.reshape(-1),
        vertex_colours=None if colours is None else colours[vertices],
        uv=uv[used % len(uv)],
    )
