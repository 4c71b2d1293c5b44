"""Contact sheet of a dataset: a few shapes of each category as stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.data import records
from onet_jax.data.records import Index, Shape
from onet_jax.data.schema import NUM_VOXELS
from onet_jax.geometry import grid
from onet_jax.geometry.meshes import UPS, load_mesh
from onet_jax.geometry.upright import is_up_doubtful
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.prepare.own_meshes import find_meshes
from onet_jax.progress import track
from onet_jax.viz.pictures import Item, contact_sheet

NUM_SHOWN = 3  # shapes of a category


def dataset_sheet(data_dir: str | Path, path: str | Path) -> None:
    """Write a PNG with the first shapes of each category: mesh, points inside, surface samples, voxels, two views, as far as
    the dataset has them; of sequences three frames.

    The mesh is shown where its source still exists; where up is doubtful, the caption asks. Raises FileNotFoundError or
    InputError for a dataset that cannot be read.
    """
    index = records.read_index(data_dir, None)
    of_category: dict[str, dict[str, None]] = {}
    for split in records.SEQUENCE_SPLITS:
        for category, name in index.splits.get(split, ()):
            of_category.setdefault(category, {}).setdefault(name)
    shown = [(category, name) for category, names in sorted(of_category.items()) for name in list(names)[:NUM_SHOWN]]
    if index.layout == 'sequences':
        return _sequences_sheet(data_dir, index, shown, path)
    # The first, and the next one that has a camera.
    picked, original = [0, max(1, index.num_input_views)][: index.num_views], find_originals(index, set(shown))
    items = []
    for category, name in track(shown, 'reading what the picture shows', 'shapes'):
        stored = records.shape_path(data_dir, category, name)
        shape = records.read_shape(stored, index)
        columns: dict[str, Any] = {'mesh': original(shape)} if original else {}
        if len(shape.points):
            columns['points inside'] = shape.points[shape.occ].astype(np.float32)
        if len(shape.surface):
            columns['surface samples'] = shape.surface.astype(np.float32)
        if shape.voxels is not None:
            columns['voxels'] = grid.voxel_centres(NUM_VOXELS)[shape.voxels]
        files = [shape.image[i] for i in picked]
        views = records.decode_views(stored, 'image', files) if files else ()
        columns |= {f'view {i}': view for i, view in zip(picked, views, strict=True)}
        caption = f'{shape.occ.mean():.1%} inside' if len(shape.occ) else ''
        caption += ', is y up?' * (len(shape.surface) > 0 and is_up_doubtful(shape.surface))
        items.append(Item(f'{category} {name}', caption, tuple(columns.values())))
    contact_sheet(items, tuple(columns), path)


def _sequences_sheet(data_dir: str | Path, index: Index, shown: list[tuple[str, str]], path: str | Path) -> None:
    """Surface samples of the first frame, one in the middle and the last, in coordinates of the first; points inside it."""
    items = []
    for name in track(shown, 'reading what the picture shows', 'sequences'):
        sequence = records.read_sequence(records.sequence_path(data_dir, *name), index)
        loc, scale = sequence.loc_seq, sequence.scale_seq
        clouds = [
            ((loc[k] - loc[0] + scale[k] * sequence.pcl_seq[k]) / scale[0]).astype(np.float32)
            for k in (0, len(scale) // 2, -1)
        ]
        inside = sequence.points_seq[0][sequence.occ_seq[0]].astype(np.float32)
        caption = f'{sequence.occ_seq.mean():.1%} inside, {len(scale)} frames'
        items.append(Item(' '.join(name), caption, (inside, *clouds)))
    contact_sheet(items, ('points inside', 'first frame', 'in the middle', 'last frame'), path)


def find_originals(index: Index, wanted: set[tuple[str, str]]) -> Callable[[Shape], trimesh.Trimesh] | None:
    """shape -> the mesh it was made from, in object coordinates; None where that of a wanted shape does not exist any more."""
    source = index.source
    if source.get('kind') == 'procedural':
        return lambda shape: embedded_solid(source['seed'], shape.category, int(shape.name)).mesh()
    if source.get('kind') != 'meshes' or not Path(source['root']).is_dir():
        return None
    files = find_meshes(Path(source['root']))
    if not wanted <= set(files):
        return None

    def read(shape: Shape) -> trimesh.Trimesh:
        mesh = load_mesh(files[shape.category, shape.name])
        mesh.vertices = (np.asarray(mesh.vertices, np.float64) @ UPS[source['up']].T - shape.loc) / shape.scale
        return mesh

    return read
