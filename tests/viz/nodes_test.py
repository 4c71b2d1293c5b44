"""What a scene of viser is given of each kind of shape; a stand-in for it notes the calls."""

from collections import Counter

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals

from onet_jax.geometry.meshes import OpenSurface
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence
from onet_jax.geometry.views import Pictures
from onet_jax.geometry.voxels import Voxels
from onet_jax.viz import nodes
from onet_jax.viz.display import Cameras, Segments
from onet_jax.viz.nodes import add_shape
from onet_jax.viz.pictures import BACK, FRONT, Painted, PaintedCloud

BALL = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
POINTS = np.asarray(BALL.vertices)
COLOURS = np.round(255 * (POINTS + 0.5)).astype(np.uint8)
PICTURE = np.full((10, 20, 3), 7, np.uint8)


class Scene:
    """The calls of a scene, by the names of the nodes."""

    def __init__(self):
        self.calls = {}

    def __getattr__(self, method):
        def add(name, *values, **options):
            assert name not in self.calls
            self.calls[name] = (method, values, options)
            return name

        return add

    def methods(self):
        return Counter(method for method, _, _ in self.calls.values())


def calls_of(shape):
    scene = Scene()
    assert add_shape(scene, '/a', shape) == []
    return scene.calls


def textured():
    visual = TextureVisuals(uv=POINTS[:, :2], image=Image.new('RGB', (2, 2), 'red'))
    return trimesh.Trimesh(POINTS, BALL.faces, process=False, visual=visual)


@pytest.mark.parametrize(
    'shape, method',
    [
        (BALL, 'add_mesh_simple'),
        (Voxels(np.ones((2, 2, 2), bool), np.zeros(3), 1.0), 'add_mesh_simple'),
        (trimesh.Trimesh(), 'add_label'),
        (Painted(BALL, COLOURS), 'add_glb'),
        (textured(), 'add_glb'),
        (POINTS, 'add_point_cloud'),
        (trimesh.PointCloud(POINTS), 'add_point_cloud'),
        (PaintedCloud(POINTS, COLOURS), 'add_point_cloud'),
        (PICTURE, 'add_image'),
        (Pictures(np.zeros((5, 8, 8, 3), np.float32)), 'add_image'),
        (Segments(np.zeros((4, 2, 3)), np.zeros((4, 3), np.uint8)), 'add_line_segments'),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_kind_of_shape_is_one_node(shape, method):
    ((found, _, _),) = calls_of(shape).values()
    assert found == method


def test_nothing_and_what_is_no_shape():
    assert calls_of(None) == {}
    with pytest.raises(TypeError, match='expected a shape that the viewer shows'):
        calls_of('a ball')


def test_holes_and_meshes_that_are_inside_out_show_the_backs_of_their_faces():
    half = OpenSurface(POINTS, BALL.faces[BALL.triangles_center[:, 2] > 0], process=False)
    inverted = trimesh.Trimesh(POINTS, BALL.faces[:, ::-1], process=False)
    for mesh in (half, inverted):
        front, back = (options for _, _, options in calls_of(mesh).values())
        assert (front['color'], back['color']) == tuple(tuple(round(255 * v) for v in c) for c in (FRONT, BACK))
        assert back['side'] == 'back'
    assert calls_of(BALL)['/a/shape'][2]['flat_shading'] is False
    assert calls_of(trimesh.creation.box())['/a/shape'][2]['flat_shading'] is True


def test_clouds_keep_their_colours():
    cloud = trimesh.PointCloud(POINTS, colors=np.hstack([COLOURS, np.full((len(POINTS), 1), 255, np.uint8)]))
    for shape in (cloud, PaintedCloud(POINTS, COLOURS)):
        ((_, (points, colours), _),) = calls_of(shape).values()
        np.testing.assert_allclose(points, POINTS, atol=1e-7)
        np.testing.assert_array_equal(colours, COLOURS)


def test_the_longer_edge_of_a_picture_is_that_of_a_shape():
    ((_, (_, width, height), _),) = calls_of(PICTURE).values()
    assert (width, height) == (1, 0.5)


def test_cameras_look_where_they_did():
    turn = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    cameras = Cameras(POINTS[:2], np.stack([np.eye(3), turn]), np.ones(2), [PICTURE] * 2, COLOURS[:2], 0.1)
    first, second = (options for _, _, options in calls_of(cameras).values())
    np.testing.assert_allclose(first['wxyz'], [1, 0, 0, 0])
    w, x, y, z = second['wxyz']
    ahead = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
    np.testing.assert_allclose(ahead, turn @ [0, 0, 1], atol=1e-12)


def test_large_shapes_have_fewer_faces_and_points(monkeypatch):
    monkeypatch.setattr(nodes, 'MAX_FACES', 200)
    monkeypatch.setattr(nodes, 'MAX_POINTS', 50)
    ((_, (_, faces), _),) = calls_of(BALL).values()
    assert len(faces) <= 200
    ((_, (points, colours), _),) = calls_of(PaintedCloud(POINTS, COLOURS)).values()
    assert len(points) == len(colours) == 50
    np.testing.assert_array_equal(colours, np.round(255 * (points + 0.5)))


@pytest.mark.parametrize(
    'sequence, method',
    [
        (MeshSequence(np.stack([POINTS, POINTS * 0.9, POINTS * 0.8]), BALL.faces), 'add_mesh_simple'),
        (ChangingMeshes((BALL, BALL.copy(), trimesh.creation.box())), 'add_mesh_simple'),
        (CloudSequence(np.stack([POINTS] * 3)), 'add_point_cloud'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_first_frame_of_a_sequence_is_visible(sequence, method):
    scene = Scene()
    assert add_shape(scene, '/a', sequence) == ['/a/0000', '/a/0001', '/a/0002']
    assert scene.methods() == {'add_frame': 3, method: 3}
    assert [scene.calls[f'/a/000{k}'][2]['visible'] for k in range(3)] == [True, False, False]
