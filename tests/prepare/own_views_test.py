"""Views of a user's meshes: colours of vertices, of faces and of textures, with their depth."""

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import SimpleMaterial

from onet_jax.data import records
from onet_jax.prepare.check import check_dataset
from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.runners import in_this_process

RED, BLUE = (220, 40, 40, 255), (40, 60, 220, 255)  # of the left and the right half
KINDS = ('face', 'texture', 'vertex', 'without')  # the last lacks its texture


def write_meshes(root):
    """A box in two halves, coloured in three ways."""
    for kind in KINDS:
        mesh = trimesh.creation.box((1, 0.6, 0.5)).subdivide().subdivide()
        if kind == 'vertex':
            mesh.visual = ColorVisuals(mesh, vertex_colors=np.where(mesh.vertices[:, :1] < 0, RED, BLUE))
        elif kind == 'face':
            mesh.visual = ColorVisuals(mesh, face_colors=np.where(mesh.triangles_center[:, :1] < 0, RED, BLUE))
        else:
            image = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
            uv = np.column_stack([mesh.vertices[:, 0] + 0.5, np.full(len(mesh.vertices), 0.5)])
            mesh.visual = TextureVisuals(uv, SimpleMaterial(image=image, diffuse=(255, 255, 255)))
        (root / kind).mkdir(parents=True)
        mesh.export(root / kind / f'a.{"ply" if kind in ("vertex", "face") else "obj"}')
    for texture in (root / 'without').glob('*.png'):
        texture.unlink()


@pytest.mark.slow
def test_views_have_the_colours_and_the_depth_of_meshes(tmp_path, capsys):
    root, data_dir = tmp_path / 'meshes', tmp_path / 'data'
    write_meshes(root)
    views = {'num_views': 1, 'num_fixed_views': 2, 'depth': True}
    shares = {'val_fraction': 0, 'test_fraction': 0}
    index = prepare_meshes(root, data_dir, num_points=2048, seed=0, **views, **shares, run=in_this_process)
    assert (index.num_views, index.splits['train']) == (3, tuple((kind, 'a') for kind in KINDS))
    assert not check_dataset(data_dir, in_this_process).problems
    assert (
        f"{root}/without/material.mtl: the texture 'material_0.png' is missing and not used" in capsys.readouterr().out
    )
    for kind in KINDS:
        path = records.shape_path(data_dir, kind, 'a')
        shape = records.read_shape(path, index)
        columns = [records.decode_views(path, name, getattr(shape, name)) for name in ('image', 'alpha', 'depth')]
        rgb, alpha, depth = (column[1].astype(float) for column in columns)  # the first fixed one: from the front
        assert ((depth > 0) == (alpha > 0)).all()
        drawn = np.flatnonzero((alpha == 255).any(axis=0))
        third = len(drawn) // 3
        for part, colour in ((drawn[3:third], RED), (drawn[-third:-3], BLUE)):
            shown = rgb[:, part][alpha[:, part] == 255].mean(axis=0)
            expected = np.array([204, 204, 204] if kind == 'without' else colour[:3], float)
            assert shown @ expected > 0.99 * np.linalg.norm(shown) * np.linalg.norm(expected), (kind, shown)
