import itertools
import sys

import numpy as np
import pytest
import trimesh
from coloured_meshes import waves
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import SimpleMaterial

from onet_jax.errors import InputError
from onet_jax.geometry import atlas
from onet_jax.geometry.atlas import fill, rasterise
from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.meshes import load_mesh, save_mesh
from onet_jax.geometry.painting import bake_texture, own_vertex_colours, paint_vertices
from onet_jax.geometry.sampling import sample_faces
from onet_jax.geometry.subdivide import subdivide

BOX, BALL = trimesh.creation.box(), trimesh.creation.icosphere(3, 0.5)
LONG = trimesh.creation.cone(0.05, 1.0, sections=5)  # of slivers


def places_of(mesh, num=5000):
    points, _, faces, uv = sample_faces(mesh, num, 0)
    return points, faces, np.column_stack([1 - uv.sum(axis=1), uv])


@pytest.mark.parametrize('mesh, max_edge', [(BOX, 0.1), (BOX, 0.9), (BALL, 0.07), (LONG, 0.06), (BOX, 9.0)])
def test_subdivision_keeps_the_surface_and_closes_it(mesh, max_edge):
    small, origins = subdivide(mesh, max_edge)
    edges = small.vertices[small.edges_unique]
    assert np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1).max() <= max_edge
    assert small.is_watertight
    assert small.area == pytest.approx(mesh.area)
    assert small.volume == pytest.approx(mesh.volume)
    np.testing.assert_array_equal(small.vertices[: len(mesh.vertices)], mesh.vertices)
    normals = np.einsum('fi,fi->f', small.face_normals, mesh.face_normals[origins])
    np.testing.assert_allclose(normals, 1, atol=1e-6, err_msg='each face is in its own one, turned as it is')
    areas = np.bincount(origins, small.area_faces)
    np.testing.assert_allclose(areas, mesh.area_faces, rtol=1e-6)


def test_subdivision_refuses_what_would_not_end():
    for length, message in (
        (1e-6, 'at most 4,000,000 faces of the 12, found 1e-06'),
        (0, 'above 0'),
        (np.nan, 'above 0'),
    ):
        with pytest.raises(InputError, match=f'max_edge: expected .*{message}'):
            subdivide(BOX, length)


def test_vertices_have_the_colours_of_the_field():
    painted = paint_vertices(BOX, waves, 0.2)
    assert painted.is_watertight
    np.testing.assert_allclose(painted.visual.vertex_colors[:, :3], 255 * waves(painted.vertices), atol=0.51)
    assert len(paint_vertices(BOX, waves).vertices) == 8
    for color, message in (
        (lambda points: points[:, :2], 'expected colours'),
        (lambda points: np.full(points.shape, np.nan), 'expected finite numbers'),
    ):
        with pytest.raises(InputError, match=message):
            paint_vertices(BOX, color)


def test_rasterisation_covers_what_triangles_do():
    """A slow twin, on triangles that share edges, are smaller than a texel, or have no area."""
    rng, size = np.random.default_rng(0), 12
    grid = np.stack(np.meshgrid(*[np.linspace(0.05, 0.95, 4)] * 2), axis=-1).reshape(-1, 2)
    quads = np.array([[i, i + 1, i + 4, i + 5] for i in (0, 1, 2, 4, 5, 6, 8, 9)])  # the last cell is empty
    corners = grid[np.concatenate([quads[:, [0, 1, 2]], quads[:, [3, 2, 1]]])]
    tiny = np.array([0.9, 0.9]) + 1e-3 * rng.random((1, 3, 2))
    corners = np.concatenate([corners, tiny, np.full((1, 3, 2), 0.5)])
    texels = rasterise(corners, size)
    assert len(np.unique(texels.places)) == len(texels.places)
    rows, columns = np.divmod(texels.places, size)
    centres = np.stack([(columns + 0.5) / size, 1 - (rows + 0.5) / size], axis=1)
    found = np.einsum('mi,mik->mk', texels.weights, corners[texels.faces])
    is_tiny = texels.faces == len(corners) - 2
    assert is_tiny.sum() == 1, 'no chart is without a texel'
    np.testing.assert_allclose(found[~is_tiny], centres[~is_tiny], atol=1e-6)
    for row, column in itertools.product(range(size), range(size)):
        point = np.array([(column + 0.5) / size, 1 - (row + 0.5) / size])
        inside = any(
            (np.linalg.solve(np.vstack([triangle.T, np.ones(3)]), [*point, 1]) >= -1e-9).all()
            for triangle in corners[:16]
        )
        if inside:
            assert row * size + column in texels.places


def test_empty_texels_have_the_colour_of_the_nearest_one():
    texture = fill(np.array([0, 15]), np.array([[1, 2, 3], [4, 5, 6]], np.uint8), 4)
    assert (texture[:2, :2] == [1, 2, 3]).all()
    assert (texture[2:, 2:] == [4, 5, 6]).all()


@pytest.mark.parametrize('mesh', [BOX, BALL, LONG], ids=['box', 'ball', 'slivers'])
def test_a_baked_texture_has_the_colours_of_the_field(tmp_path, mesh):
    pytest.importorskip('xatlas')
    far = trimesh.Trimesh(30 * mesh.vertices + 1000, mesh.faces, process=False)
    baked = bake_texture(far, lambda points: waves((points - 1000) / 30), 256)
    np.testing.assert_allclose(baked.triangles, far.triangles, atol=1e-12)
    again = bake_texture(far, lambda points: waves((points - 1000) / 30), 256)
    np.testing.assert_array_equal(again.visual.uv, baked.visual.uv)
    _, faces, weights = places_of(far)
    expected = waves(np.einsum('ni,nik->nk', weights, mesh.triangles[faces]))
    for name in ('a.glb', 'b.obj'):
        save_mesh(baked, tmp_path / name)
        found = load_mesh(tmp_path / name)
        np.testing.assert_allclose(found.triangles, far.triangles, atol=1e-4)
        error = np.abs(colours_of(found)(faces, weights) - expected)
        assert error.max() < 0.05, 'of a texel'
        assert error.mean() < 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.glb', 'b.mtl', 'b.obj', 'b.png']
    texture = np.asarray(baked.visual.material.baseColorTexture)
    other = trimesh.load(tmp_path / 'a.glb', force='mesh', process=False)
    np.testing.assert_array_equal(np.asarray(other.visual.material.baseColorTexture), texture)
    other = trimesh.load(tmp_path / 'b.obj', force='mesh', process=False)
    np.testing.assert_array_equal(np.asarray(other.visual.material.image), texture)
    assert (other.visual.material.diffuse[:3] == 255).all(), 'by which a viewer multiplies the texture'


def test_what_cannot_be_baked_is_said(monkeypatch):
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(InputError, match='expected a surface to colour, found 1 faces of area zero'):
        bake_texture(flat, waves, 64)
    with pytest.raises(InputError, match='texture_size: expected 16 to 4096 texels, found 8'):
        bake_texture(BOX, waves, 8)
    monkeypatch.setattr(atlas.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"xatlas, .* not installed; run: pip install -e '\.\[texture\]'"):
        bake_texture(BOX, waves, 64)
    monkeypatch.setattr(atlas, 'check_unwrapping', lambda: None)
    monkeypatch.setattr(sys, 'executable', '/bin/false')
    with pytest.raises(InputError, match='expected one that xatlas can unwrap, found 12 faces on which it fails'):
        bake_texture(BOX, waves, 64)


@pytest.mark.parametrize('kind', ['vertex', 'face', 'texture'])
def test_vertices_have_the_own_colours_of_a_mesh(kind):
    mesh, rng = BOX.copy(), np.random.default_rng(0)
    mesh.visual = {
        'vertex': ColorVisuals(mesh, vertex_colors=rng.integers(0, 256, (8, 3), np.uint8)),
        'face': ColorVisuals(mesh, face_colors=rng.integers(0, 256, (12, 3), np.uint8)),
        'texture': TextureVisuals(
            uv=rng.random((8, 2)), material=SimpleMaterial(Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)))
        ),
    }[kind]
    painted = own_vertex_colours(mesh, 0.2)
    assert painted.is_watertight
    for vertex, colour in zip(painted.vertices, painted.visual.vertex_colors[:, :3] / 255, strict=True):
        candidates = []
        for face, triangle in enumerate(mesh.triangles):
            weights = np.linalg.lstsq(np.vstack([triangle.T, np.ones(3)]), [*vertex, 1], rcond=None)[0]
            if (weights > -1e-9).all() and np.allclose(weights @ triangle, vertex):
                candidates.append(colours_of(mesh)(np.array([face]), weights[None].clip(0))[0])
        assert np.abs(np.array(candidates) - colour).max(axis=1).min() < 0.01, 'of one of the faces that it is on'
