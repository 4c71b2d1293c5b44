"""Rendered images of meshes and point clouds, contact sheets and animations, by ray casting: no display, no OpenGL.

All images have the same camera: it looks at the origin from `DISTANCE` with y up, and frames the whole padded cube, so that
images can be compared. Angles are in degrees: azimuth 0 looks along -z, a positive one moves the eye towards +x; elevation
lifts it towards +y. The key light is fixed to the camera, above left. Back faces have the colour `BACK`, so that holes and
meshes that are inside out can be seen; a `Painted` mesh and a `PaintedCloud` have colours of their own. N points or vertices,
H, W pixels.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np
import trimesh
from PIL import Image, ImageDraw, ImageFont

from onet_jax.errors import InputError
from onet_jax.files import write_atomically
from onet_jax.geometry.render import prepare, trace, unit
from onet_jax.progress import track
from onet_jax.scores import as_geometry

RGB = tuple[float, float, float]  # sRGB in [0, 1]

PNG = b'\x89PNG\r\n\x1a\n'  # the first bytes of a file
SIZE = 224  # px
AZIMUTH, ELEVATION = 30.0, 20.0  # degrees
DISTANCE = 5.0  # of the eye from the origin
HALF_WIDTH = 0.87  # of the image, measured in the plane through the origin
FRONT, BACK, DOTS = (0.50, 0.66, 0.88), (0.93, 0.56, 0.34), (0.31, 0.38, 0.48)  # sRGB of surfaces in full light
UNSUPPORTED = (0.82, 0.40, 0.62)  # of the surface that no input point supports
LIGHT = (-0.48, 0.72, 0.50)  # towards the key light: right, up, back
AMBIENT, SKY, KEY = 0.52, 0.10, 0.46  # everywhere, from above, from the key light
MAX_POINTS = 2048  # of a cloud, in images and on the page
MANY = 1000  # points from which on their balls are so small that an icosahedron is one
NUM_COLOURS = 64  # of a palette
MOVE, REST = 120, 700  # ms that an animation shows a step, and either end

_ROWS_PER_PIXEL = 2  # supersampling: rays of a pixel along each axis
_SOFTNESS = 0.05  # area light: the rays of a pixel have key lights this far apart, which softens shadows
_SHADOW_OFFSET = 2e-3


class Painted(NamedTuple):
    """A mesh with colours for its pictures."""

    mesh: trimesh.Trimesh
    colours: np.ndarray  # [N, 3] uint8 sRGB, of the front at its vertices


class PaintedCloud(NamedTuple):
    """A point cloud with colours."""

    points: np.ndarray  # [N, 3]
    colours: np.ndarray  # [N, 3] uint8 sRGB


Shape = trimesh.Trimesh | Painted | PaintedCloud | np.ndarray


class Item(NamedTuple):
    """One row of images: a name, a caption such as 'IoU 0.93', and what to show in each column.

    A shape is in object coordinates: a prediction of any type (see `scores.py`), a painted mesh or cloud, or points [N, 3]. An
    image [H, W, 3] uint8 is shown unchanged.
    """

    name: str
    caption: str
    shapes: Sequence[Any]
    links: Sequence[str | None] = ()  # files of the shapes, relative to the page


def painted(mesh: trimesh.Trimesh) -> Painted:
    """A mesh with colours of vertices, shown in them."""
    return Painted(mesh, np.asarray(cast(Any, mesh.visual).vertex_colors)[:, :3])


def drawable(shape: Any) -> Shape:
    """A prediction of any type as a mesh or as points [N, 3]; images and what is painted are returned unchanged."""
    shape = as_geometry(shape)
    return np.asarray(shape.vertices) if isinstance(shape, trimesh.PointCloud) else shape


def render(shape: Any, *, size: int = SIZE) -> np.ndarray:
    """Render a prediction or points [N, 3] from the default camera: [size, size, 3] uint8. An image is resized.

    Raises InputError as `render_mesh` and `render_points` do.
    """
    shape = drawable(shape)
    if is_picture(shape):
        return np.asarray(Image.fromarray(shape).resize((size, size), Image.Resampling.LANCZOS))
    if isinstance(shape, Painted):
        return render_mesh(shape.mesh, size=size, colour=shape.colours / np.float32(255))
    if isinstance(shape, PaintedCloud):
        return render_points(shape.points, size=size, colour=shape.colours / np.float32(255))
    return render_mesh(shape, size=size) if isinstance(shape, trimesh.Trimesh) else render_points(shape, size=size)


def is_picture(shape: Shape) -> TypeGuard[np.ndarray]:
    """Whether something to show is an image [H, W, 3] uint8."""
    return isinstance(shape, np.ndarray) and shape.dtype == np.uint8


def render_mesh(
    mesh: trimesh.Trimesh,
    *,
    size: int = SIZE,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
    colour: RGB | np.ndarray = FRONT,
) -> np.ndarray:
    """Render a mesh in object coordinates on white: [size, size, 3] uint8.

    azimuth, elevation: of the camera, in degrees. colour: of front faces, sRGB in [0, 1], or [N, 3] at the vertices. An empty
    mesh gives an image with the word 'empty'. Raises InputError for vertices that are not finite.
    """
    if len(mesh.faces) == 0:
        return _empty_picture(size)
    if not np.isfinite(mesh.vertices).all():
        raise InputError('render_mesh: expected finite vertices, found NaN or infinity; repair or drop the mesh')
    surface = prepare(mesh.vertices, mesh.faces)
    axes = camera_axes(azimuth, elevation).astype(np.float32)  # right, up, back
    eye, directions = DISTANCE * axes[2], _pixel_rays(size) @ axes
    hits = trace(surface, eye, directions)

    lights = (_sample_lights(size) @ axes)[hits.rays]
    lit = np.sum(hits.normals * lights, axis=-1, keepdims=True).clip(0)
    # No shadow rays from faces turned away from the light: they would shadow themselves, and smooth surfaces look faceted.
    exposed = np.flatnonzero((lit[:, 0] > 0) & (np.sum(hits.flat * lights, axis=-1) > 0))
    starts = eye + hits.distances * directions[hits.rays] + _SHADOW_OFFSET * hits.flat
    lit[exposed[surface.scene.run(starts[exposed], lights[exposed], query='OCCLUDED') != -1]] = 0

    samples, front = np.ones((len(directions), 3), np.float32), np.asarray(colour, np.float32)
    if front.ndim == 2:
        front = np.einsum('hi,hic->hc', hits.weights, front[mesh.faces[hits.faces]])
    paint = np.where(hits.front, front, np.asarray(BACK, np.float32))
    samples[hits.rays] = paint * (AMBIENT + SKY * hits.normals @ axes[1][:, None] + KEY * lit)
    pixels = samples.reshape(size, _ROWS_PER_PIXEL, size, _ROWS_PER_PIXEL, 3).mean(axis=(1, 3))
    return np.round(255 * pixels.clip(0, 1)).astype(np.uint8)


def render_points(points: np.ndarray, *, colour: RGB | np.ndarray = DOTS, **camera: Any) -> np.ndarray:
    """Render points [N, 3] as small shaded balls: [size, size, 3] uint8.

    colour: sRGB in [0, 1], or [N, 3] of the points. camera: size and angles, as of `render_mesh`. At most MAX_POINTS points
    are drawn. Raises InputError for an array of another shape.
    """
    points = thin(points)
    colours = np.broadcast_to(thin(colour) if isinstance(colour, np.ndarray) else colour, points.shape)
    ball = trimesh.creation.icosphere(subdivisions=int(len(points) < MANY), radius=ball_radius(len(points)))
    vertices = (points[:, None] + ball.vertices).reshape(-1, 3)
    faces = (len(ball.vertices) * np.arange(len(points))[:, None, None] + ball.faces).reshape(-1, 3)
    balls = trimesh.Trimesh(vertices, faces, process=False)
    return render_mesh(balls, colour=np.repeat(colours, len(ball.vertices), axis=0), **camera)


def thin(points: np.ndarray, num_points: int = MAX_POINTS) -> np.ndarray:
    """At most `num_points` of the points [N, 3], evenly spaced in their order, float64.

    Raises InputError for another shape.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f'points: expected an array [N, 3], found shape {points.shape}')
    return points[np.linspace(0, len(points) - 1, min(len(points), num_points)).astype(int)]


def ball_radius(num_points: int) -> float:
    """Radius of the balls of a cloud, in object coordinates: the more points, the smaller."""
    return float(np.clip(0.3 / np.sqrt(max(num_points, 1)), 0.006, 0.018))


def contact_sheet(items: Sequence[Item], column_titles: Sequence[str], path: str | Path, *, size: int = SIZE) -> None:
    """Write a PNG with one row of images for each item, its name and caption below.

    4 items and more are in two groups side by side, 9 and more in three. Raises InputError as `check_columns` and
    `check_picture` do.
    """
    check_columns(items, column_titles)
    check_picture(path)
    groups = 1 + (len(items) > 3) + (len(items) > 8)
    rows = -(-len(items) // groups)
    gap, head, foot = size // 8, size // 6, size // 5
    text_height = size // 13
    pitch_x, pitch_y = len(column_titles) * size + gap, size + foot
    sheet = Image.new('RGB', (groups * pitch_x + gap, rows * pitch_y + head + gap // 2), 'white')
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(text_height)
    for group in range(groups):
        for column, title in enumerate(column_titles):
            centre = gap + group * pitch_x + (column + 0.5) * size
            draw.text((centre, head / 2), _fit(title, font, size), 'dimgray', font, anchor='mm')
    for index, item in enumerate(track(items, f'drawing {path}', 'shapes')):
        left, top = gap + index // rows * pitch_x, head + index % rows * pitch_y
        right, baseline = left + pitch_x - gap, top + size + text_height
        for column, shape in enumerate(map(drawable, item.shapes)):
            sheet.paste(Image.fromarray(render(shape, size=size)), (left + column * size, top))
        # A long name leaves the caption one column.
        caption = _fit(item.caption, font, max(size, right - left - font.getlength(item.name) - gap))
        room = right - left - font.getlength(caption) - gap
        draw.text((left, baseline), _fit(item.name, font, room), 'black', font, anchor='ls')
        draw.text((right, baseline), caption, 'black', font, anchor='rs')
        draw.line((left, baseline + foot // 4, right, baseline + foot // 4), 'lightgray')
    stream = io.BytesIO()
    sheet.save(stream, 'png', optimize=True)
    write_atomically(path, stream.getvalue())


def animation(shapes: Sequence[Any], path: str | Path, *, size: int = SIZE) -> None:
    """Write a GIF that shows K shapes one after the other, forwards and backwards in a loop: 2 K - 2 frames.

    Images of one size are shown as they are. All frames have the same palette, so that colours do not flicker. Equal frames in
    a row become one that lasts longer.

    Raises InputError for fewer than two shapes.
    """
    if len(shapes) < 2:
        raise InputError(f'shapes: expected at least 2 to move between, found {len(shapes)}')
    pictures = [drawn if is_picture(drawn := drawable(shape)) else render(drawn, size=size) for shape in shapes]
    height, width = pictures[0].shape[:2]
    column = Image.fromarray(np.concatenate(pictures)).quantize(NUM_COLOURS, dither=Image.Dither.NONE)
    steps = [column.crop((0, top, width, top + height)) for top in range(0, column.height, height)]
    durations = [REST, *[MOVE] * (len(steps) - 2), REST, *[MOVE] * (len(steps) - 2)]
    first, *others = *steps, *steps[-2:0:-1]
    stream = io.BytesIO()
    first.save(stream, 'gif', save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    write_atomically(path, stream.getvalue())


def check_picture(path: str | Path) -> None:
    """Raises InputError for the name of another file than a PNG, and for such a file that would be replaced."""
    path = Path(path)
    if path.suffix.lower() != '.png':
        raise InputError(f'{path}: expected the name of a picture, NAME.png, found another')
    if path.is_dir() or (path.is_file() and path.stat().st_size and not path.read_bytes().startswith(PNG)):
        raise InputError(f'{path}: expected a new file or a PNG to replace, found another; choose another name')


def check_columns(items: Sequence[Item], column_titles: Sequence[str]) -> None:
    """Raises InputError unless there are items, and each has one shape for every column, and a link for each or none."""
    if not items:
        raise InputError('items: expected at least one, found none')
    for item in items:
        if len(item.shapes) != len(column_titles):
            raise InputError(
                f'item {item.name!r}: expected {len(column_titles)} shapes, one for each of '
                f'{list(column_titles)}, found {len(item.shapes)}'
            )
        if item.links and len(item.links) != len(item.shapes):
            raise InputError(
                f'item {item.name!r}: expected {len(item.shapes)} links, one a shape, found {len(item.links)}'
            )


def encode_png(picture: np.ndarray) -> bytes:
    """Encode an image [H, W, 3] uint8 as a PNG file with a palette of NUM_COLOURS, enough for a shaded surface."""
    stream = io.BytesIO()
    Image.fromarray(picture).quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(stream, 'png', optimize=True)
    return stream.getvalue()


def camera_axes(azimuth: float, elevation: float) -> np.ndarray:
    """The camera's right, up and back (towards the eye) as rows of a rotation [3, 3]; angles in degrees."""
    a, e = np.radians([azimuth, elevation])
    right = [np.cos(a), 0, -np.sin(a)]
    up = [-np.sin(a) * np.sin(e), np.cos(e), -np.cos(a) * np.sin(e)]
    back = [np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]
    return np.array([right, up, back])


def _pixel_rays(size: int) -> np.ndarray:
    """Unit directions of the rays of all pixels, row by row from the top: [(2 size)^2, 3] in (right, up, back)."""
    num_rows = _ROWS_PER_PIXEL * size
    axis = HALF_WIDTH * ((2 * np.arange(num_rows) + 1) / num_rows - 1)
    up, right = np.meshgrid(-axis, axis, indexing='ij')
    return unit(np.stack([right, up, np.full_like(up, -DISTANCE)], axis=-1).reshape(-1, 3)).astype(np.float32)


def _sample_lights(size: int) -> np.ndarray:
    """Unit direction towards the key light for every ray of `_pixel_rays`: [(2 size)^2, 3] in (right, up, back)."""
    offsets = _SOFTNESS * np.array([[[-1, -1, 1], [1, -1, -1]], [[-1, 1, -1], [1, 1, 1]]])
    return np.tile(unit(unit(np.array(LIGHT)) + offsets), (size, size, 1)).reshape(-1, 3).astype(np.float32)


def _empty_picture(size: int) -> np.ndarray:
    """A tile with a cross and the word 'empty': [size, size, 3] uint8."""
    picture = Image.new('RGB', (size, size), '#f3efe9')
    draw = ImageDraw.Draw(picture)
    near, far = 0.3 * size, 0.62 * size
    top = near - 0.06 * size
    for line in ((near, top, size - near, top + size - 2 * near), (near, top + size - 2 * near, size - near, top)):
        draw.line(line, '#c9886a', max(2, size // 40))
    draw.text((size / 2, far + 0.12 * size), 'empty', '#8a5a44', ImageFont.load_default(size // 10), anchor='mm')
    return np.array(picture)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, truncated with an ellipsis where it is wider than `width` px."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + '…') > width:
        text = text[:-1]
    return text + '…'
