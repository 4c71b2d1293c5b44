import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from onet_jax.geometry.colours import GREY, carry_colours, colours_of, has_colours, to_linear, to_srgb
from onet_jax.geometry.meshes import load_cloud, load_coloured_cloud, load_mesh, save_mesh
from onet_jax.geometry.sampling import sample_surface, sample_surface_with_colours

QUAD = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
CORNERS = np.array([[0, 0, 50, 255], [250, 0, 50, 255], [250, 200, 50, 255], [0, 200, 50, 255]], np.uint8)


def ramp():
    """A texture of 100 x 100 texels: red grows to the right by 2 a texel, green upwards (rows go down, v goes up)."""
    steps = (2 * np.arange(100)).astype(np.uint8)
    return Image.fromarray(np.stack([*np.meshgrid(steps, steps[::-1]), np.full((100, 100), 50, np.uint8)], axis=-1))


@pytest.mark.parametrize(
    'visual, expected',
    [
        (lambda mesh: ColorVisuals(mesh, vertex_colors=CORNERS), lambda x, y: (250 * x, 200 * y, 50 + 0 * x)),
        (lambda mesh: ColorVisuals(mesh, face_colors=CORNERS[1:3]), lambda x, y: (250 + 0 * x, 200 * (y > x), 50 + 0 * x)),
        (
            lambda mesh: TextureVisuals(uv=mesh.vertices[:, :2], material=SimpleMaterial(image=ramp())),
            lambda x, y: (2 * np.floor(100 * x), 2 * np.floor(100 * y), 50 + 0 * x),
        ),
        (
            lambda mesh: TextureVisuals(uv=mesh.vertices[:, :2], material=PBRMaterial(baseColorTexture=ramp())),
            lambda x, y: (2 * np.floor(100 * x), 2 * np.floor(100 * y), 50 + 0 * x),
        ),
        (
            lambda mesh: TextureVisuals(uv=np.full((3, 2), np.nan), material=SimpleMaterial(image=ramp(), diffuse=CORNERS[2])),
            lambda x, y: (250 + 0 * x, 200 + 0 * x, 50 + 0 * x),
        ),
        (lambda mesh: ColorVisuals(mesh), lambda x, y: np.full((3, len(x)), 204)),
    ],
    ids=['vertices', 'faces', 'texture', 'glTF texture', 'texture without UV', 'none'],
)  # fmt: skip
def test_samples_have_the_colours_of_their_places(visual, expected):
    mesh = QUAD.copy()
    mesh.visual = visual(mesh)
    points, normals, colours = sample_surface_with_colours(mesh, 2000, 5)
    assert colours.dtype == np.uint8
    x, y, _ = points.astype(np.float64).T
    error = np.abs(colours - np.stack(expected(x, y), axis=-1))
    assert error.max() <= 2, 'of rounding, to a texel or a byte'
    assert error.mean() < 0.3
    for found, plain in zip((points, normals), sample_surface(mesh, 2000, 5), strict=True):
        np.testing.assert_array_equal(found, plain)


def test_colours_are_between_0_and_1():
    colours = colours_of(QUAD)(np.zeros(3, int), np.eye(3))
    assert colours.dtype == np.float32
    np.testing.assert_array_equal(colours, np.float32([GREY] * 3))


@pytest.mark.parametrize('kind', ['ply', 'obj', 'glb'])
def test_the_colours_of_a_cloud_come_back_from_the_file_of_a_mesh(tmp_path, kind):
    """The same bytes of sRGB, whatever the format: of a cloud, and of the mesh to which they are carried."""
    ball = trimesh.creation.icosphere(3)
    points, _ = trimesh.sample.sample_surface(ball, 20_000, seed=0)
    left = points[:, :1] < 0
    save_mesh(
        trimesh.PointCloud(points, np.where(left, (10, 100, 200), (250, 60, 0)).astype(np.uint8)),
        tmp_path / f'cloud.{kind}',
    )
    cloud, colours = load_coloured_cloud(tmp_path / f'cloud.{kind}')
    np.testing.assert_allclose(cloud, points, atol=1e-6)
    mesh = carry_colours(ball, cloud, colours)
    save_mesh(mesh, tmp_path / f'mesh.{kind}')
    found = load_mesh(tmp_path / f'mesh.{kind}')
    far = np.abs(found.vertices[:, 0]) > 0.1
    expected = np.where(found.vertices[far, :1] < 0, (10, 100, 200, 255), (250, 60, 0, 255))
    np.testing.assert_array_equal(found.visual.vertex_colors[far], expected)
    assert ball.visual.kind is None, 'a copy has the colours'


@pytest.mark.parametrize('kind', ['vertex', 'face', 'texture', 'material'])
def test_a_glb_has_the_colours_of_the_standard(tmp_path, kind):
    """COLOR_0 and factors are linear and textures sRGB, read by us and by trimesh; no metal, which looks dark."""
    ball, rng = trimesh.creation.icosphere(3), np.random.default_rng(0)
    srgb = np.column_stack([rng.integers(0, 256, (len(ball.faces), 3)), np.full(len(ball.faces), 255)]).astype(np.uint8)
    srgb[:256, 0], texture = np.arange(256), rng.integers(0, 256, (8, 8, 3), np.uint8)
    ball.visual = {
        'vertex': ColorVisuals(ball, vertex_colors=srgb[: len(ball.vertices)]),
        'face': ColorVisuals(ball, face_colors=srgb),
        'texture': TextureVisuals(
            uv=rng.random((len(ball.vertices), 2)), material=SimpleMaterial(Image.fromarray(texture))
        ),
        'material': TextureVisuals(material=SimpleMaterial(diffuse=srgb[7])),
    }[kind]
    save_mesh(ball, tmp_path / 'a.glb')
    middle = np.arange(len(ball.faces)), np.full((len(ball.faces), 3), 1 / 3)
    expected, found = colours_of(ball)(*middle), load_mesh(tmp_path / 'a.glb')
    np.testing.assert_allclose(colours_of(found)(*middle), expected, atol=1 / 255)
    np.testing.assert_allclose(found.triangles, ball.triangles, atol=1e-6)
    (other,) = trimesh.load_scene(tmp_path / 'a.glb', process=False).geometry.values()
    assert other.visual.material.metallicFactor == 0
    if kind == 'texture':
        np.testing.assert_array_equal(np.asarray(other.visual.material.baseColorTexture), texture)
        np.testing.assert_allclose(colours_of(other)(*middle), expected, atol=1e-6)
    elif kind == 'material':
        stored = other.visual.material.main_color[:3] / 255  # rounded to bytes by trimesh
        np.testing.assert_allclose(stored, to_linear(srgb[7, :3] / 255), atol=0.5 / 255)
    else:
        stored = other.visual.vertex_attributes['color']
        srgb = srgb[: len(stored)] if kind == 'vertex' else srgb.repeat(3, axis=0)
        np.testing.assert_array_equal(np.round(255 * to_srgb(stored)), srgb[:, :3])
        np.testing.assert_allclose(stored[:, 0], to_linear(srgb[:, 0] / 255), atol=1e-6)


def test_a_coloured_glb_has_normals_that_are_smooth_but_at_creases(tmp_path):
    for shape, num_vertices in ((trimesh.creation.icosphere(3), 642), (trimesh.creation.box(), 24)):
        shape.visual.vertex_colors = (1, 2, 3, 255)
        save_mesh(shape, tmp_path / 'a.glb')
        (found,) = trimesh.load_scene(tmp_path / 'a.glb', process=False).geometry.values()
        assert len(found.vertices) == num_vertices
        normals = found.vertex_normals[found.faces].mean(axis=1)  # those of the file, of which trimesh makes none anew
        assert (normals * shape.face_normals).sum(axis=1).min() > 0.99
        sizes = np.abs(found.vertex_normals).max(axis=1)
        assert num_vertices == 642 or (sizes == 1).all(), 'of a side each'


def test_srgb_is_the_standard_one():
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(to_srgb(to_linear(values)), values, atol=1e-6)
    np.testing.assert_allclose(to_linear(np.array([0.04, 0.5, 1])), [0.04 / 12.92, 0.214041, 1], atol=1e-6)
    np.testing.assert_allclose(to_srgb(np.array([-1.0, 2.0])), [0, 1])


def test_a_mesh_without_colours_has_none_in_a_glb(tmp_path):
    save_mesh(trimesh.creation.box(), tmp_path / 'a.glb')
    assert not has_colours(load_mesh(tmp_path / 'a.glb'))


def test_colours_of_samples_and_of_none(tmp_path):
    box = trimesh.creation.box()
    save_mesh(box, tmp_path / 'plain.ply')
    plain, colours = load_coloured_cloud(tmp_path / 'plain.ply')
    assert colours is None
    box.visual.vertex_colors = (1, 2, 3, 255)
    save_mesh(box, tmp_path / 'painted.ply')
    painted, colours = load_coloured_cloud(tmp_path / 'painted.ply')
    np.testing.assert_array_equal(painted, plain)
    np.testing.assert_array_equal(painted, load_cloud(tmp_path / 'painted.ply'))
    assert (colours == (1, 2, 3)).all()
    mesh = carry_colours(box, np.zeros((1, 3)), np.array([[7, 8, 9]], np.uint8))
    assert (mesh.visual.vertex_colors == (7, 8, 9, 255)).all(), 'of fewer points than neighbours'
