"""Texture Fields in the viewer: a mesh in the colours of a photo, or of textures between samples of the prior.

C code of the geometry, Z latent code; arrays of codes have a batch of 1.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh
from onet_jax.geometry.painting import own_vertex_colours, paint_vertices
from onet_jax.geometry.subdivide import subdivide
from onet_jax.inference.colorize import (
    SHOWN_EDGE,
    bind_colors,
    encode_photo,
    prepare_canvas,
    read_photo,
    sees_photos,
)
from onet_jax.inference.displays.networks import NUM_SAMPLES, STEP
from onet_jax.models.method import Model
from onet_jax.viz.display import Display, Shown, Slider
from onet_jax.viz.pictures import SIZE, Item, Painted, painted


def display_textures(
    model: Model,
    params: dict,
    config: ConfigDict,
    mesh_path: str | Path | None,
    photo: str | Path | None,
    seed: int,
    up: str,
) -> Display:
    """A mesh of a file in the colours that a network sees in a photo; without a photo a walk from sample to sample.

    Raises OSError or InputError for files that cannot be read, and for a network without latent code and without a photo.
    """
    if mesh_path is None:
        raise InputError('--mesh: expected the mesh to colour beside the photo --input, found none')
    if photo is None and not model.latent_size:
        raise InputError('--input: expected a photo, whose colours this network takes, found none')
    canvas = prepare_canvas(model, params, config, load_mesh(mesh_path), str(mesh_path), up)
    edge, name = SHOWN_EDGE * canvas.frame.scale, Path(mesh_path).name
    shape, _ = subdivide(canvas.mesh, edge)
    own = {} if canvas.own is None else {'own colours': _show(own_vertex_colours(canvas.own, edge), canvas.frame)}

    def colour(first: dict[str, Any], cond: Any) -> Shown:
        coloured = _show(paint_vertices(shape, bind_colors(model, params, canvas, cond)), canvas.frame)
        shapes = {**first, 'coloured': coloured, **own}
        return Shown(tuple(shapes), [Item(name, '', tuple(shapes.values()))])

    if photo is not None:
        size = config.data.image_size if sees_photos(config) else config.data.view_size
        cond = encode_photo(model, params, config, read_photo(Path(photo), size), canvas.geometry)
        picture = np.round(255 * read_photo(Path(photo), SIZE)[0]).astype(np.uint8)
        return Display((), lru_cache(partial(colour, {'photo': picture}, cond)))
    samples = model.prior(jax.random.key(seed), np.arange(NUM_SAMPLES))

    def walk(place: float) -> Shown:
        start = min(int(place), NUM_SAMPLES - 2)
        share = place - start
        return colour({}, (1 - share) * samples[start : start + 1] + share * samples[start + 1 : start + 2])

    return Display((Slider('sample', 0, NUM_SAMPLES - 1, STEP, 0, plays=True),), walk)


def _show(mesh: trimesh.Trimesh, frame: Any) -> Painted:
    """A mesh with colours of vertices in object coordinates, not inside out."""
    moved = painted(trimesh.Trimesh(frame.to_object(mesh.vertices), mesh.faces, process=False, visual=mesh.visual))
    if moved.mesh.volume < 0:
        moved.mesh.invert()
    return moved
