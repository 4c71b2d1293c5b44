"""Refinement of a mesh file by a trained network, the one that reconstructed it or another one, in the frame of the user."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.fields import find_sources, read_inputs
from onet_jax.errors import InputError
from onet_jax.files import refuse_existing, refuse_replacing
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.meshes import check_format, load_mesh, save_mesh
from onet_jax.geometry.refine import refine_mesh, refinement_loss
from onet_jax.geometry.simplify import simplify_mesh
from onet_jax.inference.reconstruct import bind_input
from onet_jax.models.method import Model
from onet_jax.progress import working


def refine_file(
    model: Model,
    params: dict,
    config: ConfigDict,
    mesh_path: str | Path,
    input_path: str | Path,
    output: str | Path,
    *,
    steps: int = 30,
    num_faces: int | None = None,
) -> tuple[float, float]:
    """Move the vertices of a mesh towards the level set of the field of an input; returns the loss before and after.

    The mesh is in the frame of the input, as `onet reconstruct` writes it, and so is the result. With `num_faces` the mesh is
    simplified first, as in the paper. Raises, before anything is written, FileNotFoundError or InputError that names the file,
    for a file that cannot be read, an output that is there, more than one input, a network without a field of objects, and a
    mesh outside of its cube.
    """
    mesh_path, output = Path(mesh_path), Path(output)
    check_format(output.suffix.lower()[1:])
    sources = find_sources(config.data, input_path)
    if len(sources) != 1:
        raise InputError(f'--input: expected one input, that of the mesh, found {len(sources)} in {input_path}')
    refuse_replacing([mesh_path, sources[0].path], [output])
    refuse_existing([output])
    inputs, frame = read_inputs(config.data, sources[0], config.seed)
    with working(f'encoding {sources[0].path}'):
        field, mesh = bind_input(model, params, config, inputs), load_mesh(mesh_path)
    mesh.vertices = frame.to_object(mesh.vertices)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)  # which takes lengths of the order of 1
    reach = np.abs(mesh.vertices).max()
    if not reach <= BOX / 2 + 1e-3:
        raise InputError(
            f'{mesh_path}: expected a mesh in the frame of {sources[0].path}, inside of its cube of {BOX} longest edges, found '
            f'vertices up to {2 * reach:.2f} longest edges wide; give the --input that it was made from'
        )
    threshold = config.eval.threshold
    if num_faces is not None:
        with working(f'simplifying from {len(mesh.faces):,} faces to {num_faces:,}'):
            mesh = simplify_mesh(mesh, num_faces)
    loss_key, step_key = jax.random.split(jax.random.key(config.seed))
    with working(f'moving the vertices of {len(mesh.faces):,} faces'):
        refined = refine_mesh(mesh, field, step_key, steps=steps, threshold=threshold)
    with working('measuring the loss before and after'):
        before, after = (refinement_loss(m, field, loss_key, threshold=threshold) for m in (mesh, refined))
    refined.vertices = frame.to_user(refined.vertices)
    save_mesh(refined, output)
    return before, after
