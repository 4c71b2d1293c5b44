import jax
import numpy as np
import pytest
import trimesh
from scipy.ndimage import binary_dilation
from scipy.spatial import KDTree

from onet_jax.data.records import decode_picture
from onet_jax.data.schema import CHUNK_POINTS, DEPTH_STEPS, NUM_VOXELS, SHAPES
from onet_jax.errors import InputError
from onet_jax.geometry import grid
from onet_jax.geometry.cameras import Camera, project
from onet_jax.geometry.solid import Solid
from onet_jax.prepare import procedural, sampling
from onet_jax.prepare.sampling import SAMPLING_STRATEGIES, sample_solid

NUM_POINTS = 3 * CHUNK_POINTS + 100
RADIUS = 0.4


def ball(radius=RADIUS) -> Solid:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return Solid(mesh, lambda points: np.linalg.norm(points, axis=1) <= radius, mesh)


def slab(thickness) -> Solid:
    size = np.array([1, thickness, 1])
    mesh = trimesh.creation.box(size)
    return Solid(mesh, lambda points: (np.abs(points) <= size / 2).all(axis=1), mesh)


def sample(solid, category='ball', name='a', **settings):
    return sample_solid(solid, category, name, **{'seed': 0, 'num_points': NUM_POINTS, **settings})


def by_chunk(values):
    return values[: 3 * CHUNK_POINTS].reshape(3, CHUNK_POINTS, *values.shape[1:])


def distances(shape):
    """To the surface of the ball, of each volume point."""
    return np.abs(np.linalg.norm(shape.points.astype(np.float64), axis=1) - RADIUS)


@pytest.mark.parametrize('strategy', SAMPLING_STRATEGIES)
def test_labels_are_exact_for_the_points_as_stored(strategy):
    """A solid of layers much thinner than the spacing of float16: labels of points before rounding would be noise."""
    mesh = ball().surface
    solid = Solid(mesh, lambda points: np.floor(points.sum(axis=1) * 1e5) % 2 == 0, mesh)
    shape = sample(solid, sampling=strategy)
    assert shape.points.dtype == shape.surface.dtype == shape.normals.dtype == np.float16
    np.testing.assert_array_equal(shape.occ, solid.contains(shape.points.astype(np.float64)))
    if strategy == 'equal':
        assert shape.occ.sum() == NUM_POINTS // 2
    centres = grid.voxel_centres(NUM_VOXELS)
    np.testing.assert_array_equal(shape.voxels.ravel(), solid.contains(centres.reshape(-1, 3)))


def test_uniform_points_fill_the_cube_evenly_in_every_chunk():
    shape = sample(ball())
    assert shape.points.shape == (NUM_POINTS, 3)
    points = shape.points.astype(np.float64)
    assert np.abs(points).max() <= grid.BOX / 2 + 3e-4
    for chunk, occ in zip(by_chunk(points), by_chunk(shape.occ), strict=True):
        np.testing.assert_allclose(occ.mean(), 4 / 3 * np.pi * RADIUS**3 / grid.BOX**3, atol=0.035)
        counts, _ = np.histogramdd(chunk, bins=2, range=[(-grid.BOX / 2, grid.BOX / 2)] * 3)
        np.testing.assert_allclose(counts, CHUNK_POINTS / 8, atol=70)  # the standard deviation is 15
        far = np.sort(np.abs(chunk), axis=0)  # along each axis
        np.testing.assert_allclose(far, np.linspace(0, grid.BOX / 2, CHUNK_POINTS)[:, None].repeat(3, 1), atol=0.03)


@pytest.mark.parametrize('solid', [ball(), slab(0.02)], ids=['ball', 'slab'])
def test_half_of_equal_points_are_inside_in_every_chunk(solid):
    shape = sample(solid, sampling='equal')
    assert shape.occ.sum() == NUM_POINTS // 2
    np.testing.assert_allclose(by_chunk(shape.occ).mean(axis=1), 0.5, atol=0.045)
    inside = shape.points[shape.occ].astype(np.float64)
    low, high = solid.surface.bounds
    np.testing.assert_allclose(inside.mean(axis=0) / (high - low), 0, atol=0.03)
    np.testing.assert_allclose(shape.points[~shape.occ].astype(np.float64).mean(axis=0), 0, atol=0.03)


def test_half_of_surface_points_are_near_the_surface_in_every_chunk():
    shape = sample(ball(), sampling='surface')
    shells = np.array([0.005, 0.01, 0.02, 0.03])
    # Of the near half erf(x / std / sqrt(2)), of the uniform one the share of the volume.
    volumes = 4 / 3 * np.pi * ((RADIUS + shells) ** 3 - (RADIUS - shells) ** 3) / grid.BOX**3
    expected = (np.array([0.3829, 0.6827, 0.9545, 0.9973]) + volumes) / 2
    for chunk in by_chunk(distances(shape)):
        np.testing.assert_allclose((chunk[:, None] < shells).mean(axis=0), expected, atol=0.045)
    far = shape.points[distances(shape) > 0.06].astype(np.float64)
    assert len(far) < NUM_POINTS / 2
    np.testing.assert_allclose(np.abs(far).max(axis=0), grid.BOX / 2, atol=0.01)
    near = shape.points[distances(shape) < 0.01].astype(np.float64)
    np.testing.assert_allclose(near.mean(axis=0), 0, atol=0.025)


def test_points_near_the_surface_stay_in_the_cube(monkeypatch):
    monkeypatch.setattr(sampling, 'NEAR_STD', 0.1)
    points = sample(slab(1.0), sampling='surface').points.astype(np.float64)
    assert np.abs(points).max() <= grid.BOX / 2 + 3e-4


@pytest.mark.parametrize('strategy', SAMPLING_STRATEGIES)
def test_chunks_lie_from_the_surface_outwards(strategy):
    shape = sample(ball(), sampling=strategy)
    distance, _ = KDTree(shape.surface[:4096].astype(np.float64)).query(shape.points.astype(np.float64))
    assert (np.diff(by_chunk(distance), axis=1) > -1e-3).all()  # the samples were rounded after the sorting


def test_surface_samples_have_outward_normals():
    shape = sample(ball())
    surface, normals = shape.surface.astype(np.float64), shape.normals.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(surface, axis=1), RADIUS, atol=2e-3)
    np.testing.assert_allclose((surface * normals).sum(axis=1) / RADIUS, 1, atol=5e-3)
    np.testing.assert_allclose(by_chunk(surface).mean(axis=1), 0, atol=0.03)


def test_a_shape_is_a_function_of_seed_category_and_name():
    settings = {'num_points': 2100, 'num_views': 1, 'depth': True, 'sampling': 'surface'}
    shape, again = (sample(ball(), **settings) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, shape, again)
    assert SHAPES.present(shape) == SHAPES.columns
    without = sample(ball(), **settings | {'num_views': 0, 'depth': False})
    np.testing.assert_array_equal(without.points, shape.points, 'streams do not depend on each other')
    assert set(SHAPES.present(shape)) - set(SHAPES.present(without)) == {
        'image',
        'alpha',
        'depth',
        'world_mat',
        'camera_mat',
    }
    for other in ({'seed': 1}, {'category': 'disc'}, {'name': 'b'}):
        different = sample(ball(), **settings | other)
        for key in ('points', 'surface'):
            assert not np.array_equal(getattr(shape, key), getattr(different, key))
        assert not np.array_equal(shape.world_mat, different.world_mat)


def test_the_frame_and_the_doubt_are_kept():
    solid = ball()._replace(loc=np.array([1, 2, 3]), scale=np.float32(0.5), ambiguous=0.1)
    shape = sample(solid, num_points=100)
    np.testing.assert_array_equal(shape.loc, [1, 2, 3])
    assert (shape.loc.dtype, shape.scale, shape.ambiguous) == (np.float64, 0.5, 0.1)
    assert (sample(ball()).loc == 0).all()


def test_a_solid_without_points_inside_is_refused():
    with pytest.raises(InputError, match='expected points inside the solid, found none of 2100'):
        sample(slab(1e-5), num_points=2100)
    with pytest.raises(InputError, match=r'expected 1050 points inside, found [0-9]; it is too thin'):
        sample(slab(1e-5), num_points=2100, sampling='equal')


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match=r"sampling: expected one of \('uniform', .*found 'nearby'"):
        sample(ball(), sampling='nearby')
    with pytest.raises(InputError, match='depth: expected views to give the depth of, found num_views = 0'):
        sample(ball(), depth=True)


def neighbours(mask, reach):
    return binary_dilation(mask, np.ones((2 * reach + 1, 2 * reach + 1)))


@pytest.fixture(scope='module', params=['chair', 'airplane'])
def seen(request):
    """A shape with 4 views and their decoded columns, its mesh, and where its surface samples are in them."""
    made = procedural.make_shape(0, request.param, 1)
    mesh = made.mesh()
    shape = sample(Solid(mesh, made.contains, mesh), request.param, num_points=2100, num_views=4, depth=True)
    views = {
        name: [decode_picture(name, file) for file in getattr(shape, name)] for name in ('image', 'alpha', 'depth')
    }
    cameras = [Camera(shape.world_mat[i], shape.camera_mat[i]) for i in range(4)]
    return shape, views, cameras, [project(camera, shape.surface) for camera in cameras]


def test_cameras_project_surface_samples_onto_the_object_in_its_views(seen):
    shape, views, cameras, projected = seen
    assert len(set(shape.image)) == 4
    assert shape.world_mat.dtype == shape.camera_mat.dtype == np.float32
    for camera in cameras:
        centre, _ = project(camera, np.zeros((1, 3)))
        np.testing.assert_allclose(centre, 68.5, atol=1e-3, err_msg='the middle of the pictures')
    hits = np.zeros((4, 4))
    for i, (pixels, alpha) in enumerate(zip(views['image'], views['alpha'], strict=True)):
        assert 0.02 < (alpha > 0).mean() < 0.6
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] > 250).all(), 'on white'
        around = neighbours(alpha > 0, 1)
        for j, (places, depth) in enumerate(projected):
            assert (depth > 0).all()
            x, y = np.floor(places).astype(int).T
            assert min(x.min(), y.min()) >= 0
            assert max(x.max(), y.max()) < 137
            hits[i, j] = around[y, x].mean()
            if i == j:  # and nothing else is there
                hit = np.zeros_like(around)
                hit[y, x] = True
                assert (neighbours(hit, 4) | (alpha == 0)).mean() > 0.998
    assert np.diag(hits).min() > 0.998, hits
    assert hits[~np.eye(4, dtype=bool)].mean() < 0.85, 'each camera belongs to its view'


def test_alpha_is_the_silhouette_of_the_picture(seen):
    _, views, _, _ = seen
    for pixels, alpha in zip(views['image'], views['alpha'], strict=True):
        drawn = (pixels < 230).any(axis=2)  # more than what JPEG leaves beside an edge
        assert not (drawn & (alpha == 0)).any()
        assert drawn[alpha > 200].all()
        assert len(np.unique(alpha)) > 3, 'edges are anti-aliased'


def test_depth_is_that_of_the_nearest_surface_samples(seen):
    _, views, _, projected = seen
    for alpha, depth, (places, distance) in zip(views['alpha'], views['depth'], projected, strict=True):
        np.testing.assert_array_equal(depth > 0, alpha > 0)
        x, y = np.floor(places).astype(int).T
        told = depth[y, x] / DEPTH_STEPS
        behind = (distance - told)[told > 0]
        assert (behind > -0.01).mean() > 0.995, 'nothing is before what is seen'
        visible = behind < 0.01
        assert 0.2 < visible.mean() < 0.8, 'about half of a surface faces the camera'


def test_views_show_what_the_solid_is_a_picture_of():
    """Colours and open surfaces are in the views only."""
    red = trimesh.creation.box((0.6, 1.0, 0.6))
    red.visual.face_colors = (255, 0, 0, 255)
    shape = sample(ball()._replace(picture=red), num_points=100, num_views=2)
    for image, alpha in zip(shape.image, shape.alpha, strict=True):
        pixels, seen = decode_picture('image', image).astype(int), decode_picture('alpha', alpha) > 200
        assert seen.mean() > 0.05
        assert (pixels[seen][:, 0] > pixels[seen][:, 1:].max(axis=1) + 40).mean() > 0.95


def two_coloured_box() -> trimesh.Trimesh:
    """Red where y > 0 and blue where y < 0, as colours of faces."""
    mesh = trimesh.creation.box((0.6, 1.0, 0.6)).subdivide().subdivide()
    mesh.visual.face_colors = np.where(mesh.triangles_center[:, 1:2] > 0, (255, 0, 0, 255), (0, 0, 255, 255))
    return mesh


@pytest.mark.parametrize('rebuilt', [False, True])
def test_colours_of_faces_arrive_at_the_surface_samples(rebuilt):
    """Also where the surface is not the mesh that has them but one that was rebuilt from it, a little larger."""
    picture = two_coloured_box()
    surface = trimesh.creation.box((0.61, 1.01, 0.61)) if rebuilt else picture
    shape = sample(ball()._replace(surface=surface, picture=picture))
    assert shape.colours.dtype == np.uint8
    assert {tuple(colour) for colour in np.unique(shape.colours, axis=0)} == {(255, 0, 0), (0, 0, 255)}
    clear = np.abs(shape.surface[:, 1]) > 0.02
    np.testing.assert_array_equal(shape.colours[clear, 0] == 255, shape.surface[clear, 1] > 0)
    # The colours are those of the same samples.
    plain = sample(ball()._replace(surface=trimesh.Trimesh(surface.vertices, surface.faces, process=False)))
    np.testing.assert_array_equal(plain.surface, shape.surface)
    assert (plain.colours == 204).all(), 'grey where the picture has no colours'
