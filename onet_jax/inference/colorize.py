"""Colouring of a mesh by a network of Texture Fields: from a photo, or with textures that are sampled or interpolated.

The mesh is a file of the user, or what a network of pictures makes of the photo; the coloured one is in the same frame. Z
latent code, C code of the geometry; arrays of codes have a batch of 1.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.fields import input_names, read_inputs
from onet_jax.data.images import load_image
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.files import refuse_existing, refuse_replacing
from onet_jax.geometry.atlas import check_unwrapping
from onet_jax.geometry.colours import find_texture, has_colours
from onet_jax.geometry.mesh_files.writers import texture_paths
from onet_jax.geometry.meshes import UPS, Frame, load_mesh, merge_vertices, save_mesh
from onet_jax.geometry.painting import ColorField, bake_texture, own_vertex_colours, paint_vertices
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.solid import make_solid
from onet_jax.geometry.upright import find_up
from onet_jax.models.method import Method, Model
from onet_jax.progress import track, working
from onet_jax.scores import as_geometry
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import SIZE, Item, Painted, animation, contact_sheet, painted, render

FORMATS = ('glb', 'obj', 'ply')  # that hold colours of vertices; the first two hold textures too
EMPTY_CONTRAST = 0.02  # of a picture without an object: how much its pixels differ
SHOWN_EDGE = 1 / 64  # of faces on the page, in longest edges


class Colouring(NamedTuple):
    """What is asked for: where the coloured meshes go, and how fine their colours are."""

    output: Path  # NAME.glb, NAME.obj or NAME.ply; of several NAME_000.glb, ...
    texture_size: int = 0  # texels along each side of a baked texture; 0: colours of vertices
    max_edge: float = 0.01  # of the faces whose vertices are coloured, in longest edges of the mesh
    up: str = 'y'  # the axis of the mesh that points up, one of `meshes.UPS`, or 'auto'


class Canvas(NamedTuple):
    """A mesh to colour."""

    mesh: trimesh.Trimesh  # in the frame of the user, without colours
    own: trimesh.Trimesh | None  # the same with its own colours, where it has some
    frame: Frame  # of its object coordinates
    geometry: Any  # its code [1, C]


def colorize_photo(
    model: Model,
    params: dict,
    config: ConfigDict,
    asked: Colouring,
    photo: str | Path,
    mesh_path: str | Path | None = None,
    make_shape: Callable[[Path], trimesh.Trimesh] | None = None,
) -> Path:
    """Write a mesh with the colours that a network sees in a photo, and NAME.html, which shows it; returns the file.

    mesh_path: any mesh file. make_shape: makes a mesh of the photo instead, as `reconstruct_photo` does. A VAE takes the mean
    of the posterior. Raises OSError or InputError, before anything is written, for what cannot be read, a picture without an
    object, a mesh without volume, and a file that would be replaced.
    """
    photo = Path(photo)
    target, page = asked.output, asked.output.with_suffix('.html')
    _check(config, asked, [target], [page], [photo, *([Path(mesh_path)] if mesh_path else [])])
    seen = read_photo(photo, config.data.image_size if sees_photos(config) else config.data.view_size)
    if mesh_path is not None:
        mesh, name = load_mesh(mesh_path), str(mesh_path)
    elif make_shape is not None:
        mesh, name = make_shape(photo), f'the shape of {photo}'
    else:
        raise InputError('mesh: expected a file, or a network that makes one of the photo, found neither')
    canvas = prepare_canvas(model, params, config, mesh, name, asked.up)
    with working(f'encoding {photo}'):
        cond = encode_photo(model, params, config, seen, canvas.geometry)
    colors = {photo.stem: bind_colors(model, params, canvas, cond)}
    made = _write(canvas, colors, asked, [target])
    picture = np.round(255 * read_photo(photo, SIZE)[0]).astype(np.uint8)
    _write_page(page, canvas, colors, made, {'photo': picture})
    return target


def encode_photo(model: Model, params: dict, config: ConfigDict, seen: np.ndarray, geometry: Any) -> Any:
    """The code [1, Z] of a photo [1, S, S, 3]. Raises InputError for a network that sees none."""
    if sees_photos(config):
        return model.encode(params, seen)
    try:
        return model.posterior(params, seen, geometry)[0]
    except InputError as error:
        raise InputError(
            f'--photo: expected a network that sees pictures, found one that samples textures ({error}); leave out --photo'
        ) from error


def reconstruct_photo(method: Method, params: dict, config: ConfigDict, photo: Path) -> trimesh.Trimesh:
    """The mesh that a network of pictures makes of a photo. Raises InputError for another network, and for an empty mesh."""
    if 'image' not in input_names(config.data):
        raise InputError(
            f'--shape_workdir: expected a network of pictures, found one of {", ".join(input_names(config.data))}'
        )
    inputs, frame = read_inputs(config.data, Source(photo.stem, photo), config.seed)
    with working(f'making a shape of {photo}'):
        batch = {name: array[None] for name, array in inputs.items()}
        (prediction,) = method.predict(params, batch, jax.random.key(config.seed))
    mesh = as_geometry(prediction)
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise InputError(f'{photo}: expected a shape that the network of --shape_workdir knows, found no surface')
    mesh.vertices = frame.to_user(mesh.vertices)
    return mesh


def colorize_samples(
    model: Model,
    params: dict,
    config: ConfigDict,
    asked: Colouring,
    mesh_path: str | Path,
    *,
    seed: int,
    numbers: Sequence[int],
    num_steps: int | None = None,
) -> list[Path]:
    """Write a mesh with sampled textures, NAME_000.glb, ..., NAME_sheet.png and NAME.html; returns the mesh files.

    Texture i is a function of (seed, i), for each i of `numbers`. With num_steps `numbers` are two, and the textures are those
    of so many latent codes from the first to the second, which NAME_sheet.gif shows one after the other. Raises as
    `colorize_photo`, and for a network without latent code.
    """
    if not model.latent_size:
        raise InputError(
            '--photo: expected a picture, whose colours this network takes, found none; a VAE or a GAN samples textures'
        )
    if num_steps is not None and num_steps < 2:
        raise InputError(f'--num_steps: expected at least 2, the start and the end, found {num_steps}')
    stem, suffix = asked.output.stem, asked.output.suffix
    targets = [asked.output.with_name(f'{stem}_{i:03d}{suffix}') for i in range(num_steps or len(numbers))]
    sheet, page = asked.output.with_name(f'{stem}_sheet.png'), asked.output.with_suffix('.html')
    moving = [sheet.with_suffix('.gif')] if num_steps else []
    _check(config, asked, targets, [sheet, page, *moving], [Path(mesh_path)])
    canvas = prepare_canvas(model, params, config, load_mesh(mesh_path), str(mesh_path), asked.up)
    codes = model.prior(jax.random.key(seed), np.asarray(numbers))
    if num_steps:
        shares = np.linspace(0, 1, num_steps)[:, None].astype(np.float32)
        codes = (1 - shares) * codes[:1] + shares * codes[1:]
    colors = {
        target.stem: bind_colors(model, params, canvas, code[None]) for target, code in zip(targets, codes, strict=True)
    }
    made = _write(canvas, colors, asked, targets)
    shown = _write_page(page, canvas, colors, made)
    if moving:
        pictures = [render(shape) for shape in track(shown.values(), f'drawing {moving[0]}', 'shapes')]
        contact_sheet([Item(f'{numbers[0]} to {numbers[1]}', '', pictures)], list(shown), sheet)
        animation(pictures, moving[0])
    else:
        contact_sheet([Item(name, '', (shape,)) for name, shape in shown.items()], (f'seed {seed}',), sheet)
    return targets


def _check(
    config: ConfigDict, asked: Colouring, targets: Sequence[Path], others: Sequence[Path], inputs: Sequence[Path]
) -> None:
    """Raises InputError for another network, a format without colours, files that are there, and a texture without xatlas."""
    if 'oriented_cloud' not in input_names(config.data):
        raise InputError(
            f'config: expected a network of Texture Fields, which colours points, found {config.model.name} with the inputs '
            f'{list(input_names(config.data))}'
        )
    kind = asked.output.suffix.lower()[1:]
    holding = FORMATS[:2] if asked.texture_size else FORMATS
    if kind not in holding:
        what = 'a texture' if asked.texture_size else 'colours'
        raise InputError(
            f'--output: expected a format that holds {what} ({"|".join(holding)}), found {kind or "none"!r}'
        )
    if asked.texture_size:
        check_unwrapping()
    written = [*targets, *others]
    if asked.texture_size and kind == 'obj':
        written += [path for target in targets for path in texture_paths(target)]
    refuse_replacing(inputs, written)
    refuse_existing(written)


def sees_photos(config: ConfigDict) -> bool:
    return 'image' in input_names(config.data)


def read_photo(path: Path, size: int) -> np.ndarray:
    """A photo as a network sees it, [1, S, S, 3]. Raises InputError for one of a single colour, which is background."""
    image = load_image(path, size)
    if np.ptp(image, axis=(0, 1)).max() < EMPTY_CONTRAST:
        raise InputError(
            f'{path}: expected a picture of an object on white or transparent ground, found background alone; give another'
        )
    return image[None]


def prepare_canvas(model: Model, params: dict, config: ConfigDict, mesh: trimesh.Trimesh, name: str, up: str) -> Canvas:
    """A mesh in the frame of the user, and the code of its geometry. Raises InputError with the name for one without volume."""
    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    merge_vertices(plain)  # of which there are several at the seams of a texture
    up = find_up(np.asarray(mesh.vertices)) if up == 'auto' else up
    with working(f'encoding {name}'):
        try:
            solid = make_solid(plain.copy(), up)
        except InputError as error:
            raise InputError(f'{name}: {error}') from error
        points, normals = sample_surface(solid.surface, config.data.num_surface_points, config.seed)
        geometry = model.encode_geometry(params, np.hstack([points, normals]).astype(np.float32)[None])
    frame = Frame(UPS[up].T @ solid.loc, solid.scale, UPS[up])
    return Canvas(plain, mesh if has_colours(mesh) else None, frame, geometry)


def bind_colors(model: Model, params: dict, canvas: Canvas, cond: Any) -> ColorField:
    """The color field of a code [1, Z] in the frame of the user."""
    field = model.bind(params, canvas.geometry, cond)
    return lambda points: field(canvas.frame.to_object(points).astype(np.float32))


def _write(
    canvas: Canvas, colors: Mapping[str, ColorField], asked: Colouring, targets: Sequence[Path]
) -> dict[Path, trimesh.Trimesh]:
    """Write the mesh in the colours of each field; returns the coloured meshes by their files."""
    made = {}
    for color, target in zip(colors.values(), track(targets, 'colouring', 'meshes'), strict=True):
        if asked.texture_size:
            mesh = bake_texture(canvas.mesh, color, asked.texture_size)
        else:
            mesh = paint_vertices(canvas.mesh, color, asked.max_edge * canvas.frame.scale)
        save_mesh(mesh, target)
        print(f'{target}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces', flush=True)
        made[target] = mesh
    return made


def _write_page(
    path: Path,
    canvas: Canvas,
    colors: Mapping[str, ColorField],
    made: Mapping[Path, trimesh.Trimesh],
    first: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Painted]:
    """Write the page; returns its coloured shapes in object coordinates, by the names of `colors`. first: its first columns."""
    edge, first = SHOWN_EDGE * canvas.frame.scale, first or {}

    def show(mesh: trimesh.Trimesh) -> Painted:
        mesh.vertices = canvas.frame.to_object(mesh.vertices)
        if mesh.volume < 0:  # inside out, and the back of a face has another colour
            mesh.invert()
        return painted(mesh)

    with working(f'writing {path}'):
        truth = {} if canvas.own is None else {'own colours': show(own_vertex_colours(canvas.own, edge))}
        items, shapes = [], {}
        for (name, color), (target, mesh) in zip(colors.items(), made.items(), strict=True):
            # A texture as it is in the file; colours of vertices at the density that a page has room for.
            coarse = (
                paint_vertices(canvas.mesh, color, edge)
                if find_texture(mesh) is None
                else own_vertex_colours(mesh, edge)
            )
            shapes[name] = show(coarse)
            links = [None] * len(first) + [target.name] + [None] * len(truth)
            items.append(Item(name, target.name, [*first.values(), shapes[name], *truth.values()], links=links))
        write_page(
            path,
            title=f'{len(items)} coloured mesh{"es" if len(items) > 1 else ""}',
            lead='Colours of a network of Texture Fields, without light: the page adds its own.',
            summary={'vertices': f'{len(canvas.mesh.vertices):,}', 'faces': f'{len(canvas.mesh.faces):,}'},
            items=items,
            column_titles=[*first, 'coloured', *truth],
        )
    return shapes
