import io
import tarfile

import numpy as np
import pytest
import trimesh
from conftest import SHARED
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from onet_jax.geometry import render
from onet_jax.geometry.cameras import Camera, aim, object_camera, project, r2n2_camera, sample_cameras
from onet_jax.geometry.render import View, face_and_corner_normals, render_views
from onet_jax.geometry.sampling import sample_surface

BALL = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
# A box without one of its corners, so that it has no symmetry that a mirrored or turned picture could hide behind.
CORNERS = trimesh.creation.box((0.7, 0.35, 0.5)).vertices
CUT = [[0, 0.175, 0.25], [0.35, 0, 0.25], [0.35, 0.175, -0.05]]
CHIPPED = trimesh.convex.convex_hull(np.vstack([CORNERS[~(CORNERS > 0).all(axis=1)], CUT]))
TORUS = trimesh.creation.torus(0.35, 0.11, major_sections=64, minor_sections=32)
MESHES = {'box': CHIPPED, 'torus': TORUS, 'ball': BALL}
CAMERA = r2n2_camera(40, 28, 0.8)


def first(cameras: Camera, index: int = 0) -> Camera:
    return Camera(cameras.world_mat[index], cameras.camera_mat[index])


def render_view(mesh: trimesh.Trimesh, camera: Camera, **options) -> View:
    """`render_views` for one camera."""
    views = render_views(mesh, Camera(camera.world_mat[None], camera.camera_mat[None]), **options)
    return View(*(array[0] for array in views))


def look_away(camera: Camera) -> Camera:
    """The camera, turned about its own vertical axis by half a circle."""
    return camera._replace(world_mat=np.diag([-1, 1, -1]) @ camera.world_mat)


@pytest.mark.parametrize('mesh', MESHES.values(), ids=MESHES)
def test_points_of_the_surface_fall_on_object_pixels(mesh):
    cameras = sample_cameras(3, 6)
    views = render_views(mesh, cameras)
    points, _ = sample_surface(mesh, 20_000, 0)
    pixels, depth = project(cameras, points)
    for view in range(6):
        mask = views.alpha[view] > 0
        column, row = np.floor(pixels[view]).astype(int).T
        assert mask[row, column].mean() > 0.995
        assert ndimage.binary_dilation(mask, np.ones((3, 3)))[row, column].all()
        # No point lies before the nearest, and those that are seen lie on it.
        nearest = ndimage.minimum_filter(views.depth[view], 3)[row, column]
        assert (depth[view] > nearest - 1e-3).all()
        assert (depth[view] < nearest + 0.05).mean() > 0.25
        # The bounding box of the silhouette is that of the projected vertices.
        vertices, _ = project(first(cameras, view), mesh.vertices)
        rows, columns = np.nonzero(mask)
        np.testing.assert_allclose([columns.min(), rows.min()], vertices.min(axis=0), atol=1.01)
        np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], vertices.max(axis=0), atol=1.01)


@pytest.mark.parametrize('azimuth', [10, 130, 260])
def test_the_picture_is_neither_mirrored_nor_turned(azimuth):
    camera = r2n2_camera(azimuth, 27, 0.8)
    alpha = render_view(CHIPPED, camera).alpha > 127
    outline = ConvexHull(project(camera, CHIPPED.vertices)[0])  # of a convex solid
    centres = np.stack(np.meshgrid(np.arange(137), np.arange(137), indexing='xy'), axis=-1) + 0.5
    distance = (centres @ outline.equations[:, :2].T + outline.equations[:, 2]).max(axis=-1)  # px, negative inside
    expected = distance < 0
    assert np.abs(distance[alpha != expected]).max(initial=0) < 0.5
    for turned in (expected[:, ::-1], expected[::-1], expected.T):
        assert (alpha != turned).mean() > 0.02


def test_alpha_is_the_area_that_is_covered():
    camera = r2n2_camera(0, 0, 0.8)
    covered = render_view(BALL, camera).alpha.sum() / 255
    tangent = 0.4 / np.sqrt(1.4**2 - 0.4**2)
    assert covered == pytest.approx(np.pi * (149.84375 * tangent) ** 2, rel=0.005)


def test_depth_is_that_of_the_camera():
    camera = aim(r2n2_camera(0, 0, 0.8), [50, 60, 70], 100)
    ball = trimesh.creation.icosphere(subdivisions=5, radius=40).apply_translation([50, 60, 70])
    view = render_view(ball, camera)
    assert view.depth[68, 68] == pytest.approx(100, rel=1e-3)  # 1.4 diagonals to the centre less a radius
    np.testing.assert_array_equal(np.isinf(view.depth), view.alpha == 0)
    in_object_frame = ball.copy().apply_translation([-50, -60, -70]).apply_scale(1 / 80)
    seen = render_view(in_object_frame, object_camera(camera, [50, 60, 70], 80))
    np.testing.assert_allclose(seen.depth[68, 60:76], view.depth[68, 60:76], rtol=1e-5)


def test_views_are_single_views_and_the_same_every_time():
    cameras = sample_cameras(1, 3)
    views, again = render_views(TORUS, cameras), render_views(TORUS.copy(), cameras)
    for array, same in zip(views, again, strict=True):
        np.testing.assert_array_equal(array, same)
    for array, single in zip(views, render_view(TORUS, first(cameras, 2)), strict=True):
        np.testing.assert_array_equal(array[2], single)
    assert [array.dtype for array in views] == [np.uint8, np.uint8, np.float32]
    assert views.rgb.shape == (3, 137, 137, 3)


def test_another_size_is_the_same_view():
    small, large = render_view(TORUS, CAMERA), render_view(TORUS, CAMERA, size=274)
    shrunk = large.alpha.reshape(137, 2, 137, 2).mean(axis=(1, 3))
    assert np.abs(shrunk - small.alpha).mean() < 1
    assert large.rgb.shape == (274, 274, 3)


def test_nothing_is_drawn_where_nothing_is():
    for mesh, camera in (
        (BALL, look_away(CAMERA)),
        (BALL.copy().apply_translation([0, 9, 0]), CAMERA),
        (trimesh.Trimesh(), CAMERA),
        (trimesh.Trimesh(np.ones((3, 3)), [[0, 1, 2]], process=False), CAMERA),
        (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False), CAMERA),
    ):
        view = render_view(mesh, camera)
        assert not view.alpha.any()
        assert (view.rgb == 255).all()
        assert np.isinf(view.depth).all()


def test_an_eye_inside_sees_the_inside():
    inside = BALL.copy().apply_scale(10)
    assert (render_view(inside, CAMERA).alpha == 255).all()


@pytest.mark.parametrize('mesh', MESHES.values(), ids=MESHES)
def test_faces_wound_either_way_look_the_same(mesh):
    flips = np.random.default_rng(0).random(len(mesh.faces)) < 0.5
    faces = np.where(flips[:, None], mesh.faces[:, ::-1], mesh.faces)
    # And as a soup: every face with corners of its own.
    soup = trimesh.Trimesh(mesh.vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3), process=False)
    view, flipped = render_view(mesh, CAMERA), render_view(soup, CAMERA)
    np.testing.assert_array_equal(view.alpha, flipped.alpha)
    difference = np.abs(view.rgb.astype(int) - flipped.rgb)
    assert difference.max() <= 2


def test_every_face_of_a_box_has_its_own_shade_and_a_ball_has_no_facets():
    box = trimesh.creation.box((0.5, 0.5, 0.5))
    shades = set()
    for azimuth, elevation in ((0, 0), (90, 0), (180, 0), (270, 0), (0, 90), (0, -90)):
        seen = render_view(box, r2n2_camera(azimuth, elevation, 0.9)).rgb[60:77, 60:77]
        assert np.ptp(seen) == 0
        shades.add(int(seen[0, 0, 0]))
    assert len(shades) == 6
    assert max(shades) == render_view(box, r2n2_camera(0, 90, 0.9)).rgb[68, 68, 0], 'light comes from above'

    coarse, fine = (trimesh.creation.icosphere(subdivisions=n, radius=0.4) for n in (2, 5))
    near_centre = np.s_[50:87, 50:87]
    difference = np.abs(
        render_view(coarse, CAMERA).rgb[near_centre].astype(int) - render_view(fine, CAMERA).rgb[near_centre]
    )
    assert difference.max() <= 4


def slow_corner_normals(vertices, faces):
    triangles = vertices[faces]
    areas = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    flat = areas / np.linalg.norm(areas, axis=1, keepdims=True)
    corners = np.zeros((len(faces), 3, 3))
    for f in range(len(faces)):
        for c in range(3):
            touching = (triangles == triangles[f, c]).all(axis=-1).any(axis=-1)
            for g in np.flatnonzero(touching):
                cosine = flat[f] @ flat[g]
                if abs(cosine) > render.CREASE:
                    corners[f, c] += np.sign(cosine) * areas[g]
    return flat, corners / np.linalg.norm(corners, axis=-1, keepdims=True)


def test_corner_normals():
    rng = np.random.default_rng(0)
    ball = trimesh.creation.icosphere(subdivisions=2)
    rough = ball.vertices + 0.06 * rng.normal(size=ball.vertices.shape)
    shuffled = np.where(rng.random((len(ball.faces), 1)) < 0.3, ball.faces[:, ::-1], ball.faces)
    for vertices, faces in (
        (ball.vertices, ball.faces),
        (rough, ball.faces),
        (rough, shuffled),
        (rough[shuffled].reshape(-1, 3), np.arange(shuffled.size).reshape(-1, 3)),
        (CHIPPED.vertices, CHIPPED.faces),
    ):
        vertices = np.float32(vertices)
        for found, expected in zip(
            face_and_corner_normals(vertices, faces), slow_corner_normals(np.float64(vertices), faces), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_fan_of_many_faces_stays_in_memory():
    angles = np.linspace(0, 2 * np.pi, 30_000, endpoint=False)
    rim = np.column_stack([np.cos(angles), np.random.default_rng(0).normal(size=30_000), np.sin(angles)])
    steps = np.arange(30_000)
    faces = np.column_stack([np.full(30_000, 30_000), steps, (steps + 1) % 30_000])
    flat, corners = face_and_corner_normals(np.float32(np.vstack([rim, [[0, 2, 0]]])), faces)
    np.testing.assert_array_equal(corners[:, 0], flat)


def textured(material, uv=None):
    mesh = CHIPPED.copy()
    mesh.visual = TextureVisuals(uv=uv, material=material)
    return mesh


def test_colours_of_the_mesh_are_used():
    red = np.array([200, 120, 60, 255], np.uint8)
    by_vertex, by_face = CHIPPED.copy(), CHIPPED.copy()
    by_vertex.visual.vertex_colors, by_face.visual.face_colors = red, red
    picture = Image.new('RGB', (4, 4), tuple(red[:3].tolist()))
    uv = np.full((len(CHIPPED.vertices), 2), 0.3)
    linear = np.round(255 * (red[:3] / 255) ** 2.2).astype(int)
    expected = render_view(CHIPPED, CAMERA, colour=tuple(red[:3] / 255)).rgb
    for mesh, tolerance in (
        (by_vertex, 0),
        (by_face, 0),
        (textured(SimpleMaterial(image=picture), uv), 0),
        (textured(PBRMaterial(baseColorTexture=picture), uv), 0),
        (textured(SimpleMaterial(diffuse=red)), 0),
        (textured(PBRMaterial(baseColorFactor=[*linear, 255])), 2),  # of 8 bits
    ):
        difference = np.abs(render_view(mesh, CAMERA).rgb.astype(int) - expected)
        assert difference.max() <= tolerance
    assert (expected[68, 68] < red[:3] + 1).all()
    assert np.ptp(render_view(CHIPPED, CAMERA).rgb, axis=-1).max() == 0, 'grey'
    broken = textured(SimpleMaterial(image=picture), np.full((3, 2), np.nan))
    assert (render_view(broken, CAMERA).alpha == render_view(CHIPPED, CAMERA).alpha).all()


def test_a_texture_is_seen_between_the_vertices():
    """A quad, red at its four corners and blue in the middle."""
    texels = np.full((4, 4, 3), [200, 0, 0], np.uint8)
    texels[1:3, 1:3] = [0, 0, 200]
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    quad = trimesh.Trimesh(0.8 * corners - [0.4, 0.4, 0], [[0, 1, 2], [0, 2, 3]], process=False)
    quad.visual = TextureVisuals(uv=corners[:, :2], material=SimpleMaterial(image=Image.fromarray(texels)))
    rgb = render_view(quad, r2n2_camera(90, 0, 0.8)).rgb.astype(int)
    assert (rgb[[68, 60, 75], [68, 60, 75], 2] > 100).all()
    assert (rgb[[30, 68, 106], [30, 30, 68], 0] > 100).all()
    assert not rgb[60:75, 60:75, 0].any()


def test_what_cannot_be_drawn_is_named():
    broken = BALL.copy()
    broken.vertices[0] = np.nan
    with pytest.raises(ValueError, match='expected finite vertices, found NaN'):
        render_view(broken, CAMERA)
    for wrong in ([[0, 1, 3]], [[0, 1, -1]]):
        mesh = trimesh.Trimesh(np.eye(3), wrong, process=False, validate=False)
        with pytest.raises(ValueError, match='expected faces of the vertices 0 to 2, found'):
            render_view(mesh, CAMERA)
    far = trimesh.Trimesh(np.vstack([BALL.vertices, [[1e300, 0, 0]]]), BALL.faces, process=False)
    np.testing.assert_array_equal(render_view(far, CAMERA).rgb, render_view(BALL, CAMERA).rgb)


@pytest.mark.parametrize('model', ['03001627/chairA', '99999999/torusB'])
def test_golden_images_show_the_same(golden, model):
    """Their surfaces are splats of sampled points, with gaps between."""
    folder = SHARED / 'golden' / 'dataset' / 'ShapeNet' / model
    cameras = golden(str((folder / 'img_choy2016' / 'cameras.npz').relative_to(SHARED / 'golden')))
    mesh = trimesh.load(folder / 'model.off', process=False)
    for index in (0, 1):
        camera = Camera(cameras[f'world_mat_{index}'], cameras[f'camera_mat_{index}'])
        mask = render_view(mesh, camera).alpha > 0
        image = np.asarray(Image.open(folder / 'img_choy2016' / f'{index:03d}.jpg').convert('L')) < 235
        filled = ndimage.binary_closing(image)
        assert (mask & filled).sum() / (mask | filled).sum() > 0.9


@pytest.fixture(scope='module')
def car():
    """The 24 R2N2 renderings of a car with their cameras, and points of its surface with normals."""
    archive = SHARED / 'data' / 'images' / 'r2n2_car_1a0bc9ab.tar.xz'
    if not archive.exists():
        pytest.skip(f'{archive} not found (set ONET_JAX_SHARED)')
    with tarfile.open(archive) as files:

        def read(name):
            return io.BytesIO(files.extractfile(f'r2n2_car_1a0bc9ab/{name}').read())

        lines = np.loadtxt(read('rendering/rendering_metadata.txt'))
        images = np.stack([np.asarray(Image.open(read(f'rendering/{i:02d}.png'))) for i in range(24)])
        points, normals = np.split(np.loadtxt(read('model_normal.xyz')), 2, axis=1)
    return r2n2_camera(*lines[:, [0, 1, 3]].T), images, points, normals


def test_real_renderings_show_the_points_where_we_project_them(car):
    cameras, images, points, _ = car
    pixels, _ = project(cameras, points)
    columns, rows = np.floor(pixels).astype(int).transpose(2, 0, 1)
    alpha = images[np.arange(24)[:, None], rows, columns, 3]
    assert (alpha > 0).all()
    assert (alpha > 127).mean() > 0.98  # points on the outline share their pixel with the background
    for view in range(24):
        rows, columns = np.nonzero(images[view, ..., 3] > 127)
        np.testing.assert_allclose([columns.min(), rows.min()], pixels[view].min(axis=0), atol=1)
        np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], pixels[view].max(axis=0), atol=1)


@pytest.mark.slow
def test_real_silhouettes_are_ours(car):
    """There is no mesh of the car; a small disc at every point is as good as one for its outline."""
    cameras, images, points, normals = car
    whole = np.linalg.norm(normals, axis=1) > 0.5
    points, normals = points[whole], normals[whole]
    across = render.unit(np.cross(normals, np.where(np.abs(normals[:, :1]) < 0.9, [[1, 0, 0]], [[0, 1, 0]])))
    angles = np.arange(8) * np.pi / 4
    rim = np.cos(angles)[:, None] * across[:, None] + np.sin(angles)[:, None] * np.cross(normals, across)[:, None]
    triangles = np.stack([np.zeros(6, int), np.arange(1, 7), np.arange(2, 8)], axis=1)
    faces = (8 * np.arange(len(points))[:, None, None] + triangles).reshape(-1, 3)
    discs = trimesh.Trimesh((points[:, None] + 0.008 * rim).reshape(-1, 3), faces, process=False)
    ours, theirs = render_views(discs, cameras).alpha > 127, images[..., 3] > 127
    overlap = (ours & theirs).sum(axis=(1, 2)) / (ours | theirs).sum(axis=(1, 2))
    assert overlap.mean() > 0.98
    assert overlap.min() > 0.97
