import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from onet_jax.geometry.cameras import (
    DISTANCE_RATIOS,
    ELEVATIONS,
    Camera,
    aim,
    object_camera,
    project,
    r2n2_camera,
    rays,
    sample_cameras,
    to_normalised,
    unproject,
)

MODELS = {'chairA': '03001627', 'torusB': '99999999'}


def slow_r2n2_camera(azimuth: float, elevation: float, ratio: float) -> np.ndarray:
    """The product of rotations that Choy's and the official code write down: world_mat [3, 4]."""
    sa, ca = np.sin(np.radians(-azimuth)), np.cos(np.radians(-azimuth))
    se, ce = np.sin(np.radians(-elevation)), np.cos(np.radians(-elevation))
    object_to_eye = np.array([[ca * ce, -sa, ca * se], [sa * ce, ca, sa * se], [-se, 0, ce]]).T
    eye_to_blender = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]).T
    blender_to_image = np.diag([1, -1, -1])
    y_up_to_z_up = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    rotation = blender_to_image @ eye_to_blender @ object_to_eye
    translation = blender_to_image @ -eye_to_blender @ [1.75 * ratio, 0, 0]
    return np.column_stack([rotation @ y_up_to_z_up, translation])


def golden_camera(golden, name: str, view: int) -> Camera:
    arrays = golden(f'dataset/ShapeNet/{MODELS[name]}/{name}/img_choy2016/cameras.npz')
    return Camera(arrays[f'world_mat_{view}'], arrays[f'camera_mat_{view}'])


def test_closed_form_of_the_rotations():
    rng = np.random.default_rng(0)
    azimuth, elevation, ratio = rng.uniform(0, 360, 20), rng.uniform(-89, 89, 20), rng.uniform(0.5, 2, 20)
    expected = [slow_r2n2_camera(*line) for line in zip(azimuth, elevation, ratio, strict=True)]
    camera = r2n2_camera(azimuth, elevation, ratio)
    np.testing.assert_allclose(camera.world_mat, expected, atol=1e-14)
    np.testing.assert_array_equal(camera.camera_mat[3], [[149.84375, 0, 68.5], [0, 149.84375, 68.5], [0, 0, 1]])
    assert r2n2_camera(10, 20, 0.8).world_mat.shape == (3, 4)
    assert r2n2_camera(np.zeros((2, 1)), np.zeros(3), 1).camera_mat.shape == (2, 3, 3, 3)


def test_which_way_the_axes_go():
    points = [[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]]
    pixels, depth = project(r2n2_camera(0, 30, 0.8), points)  # the eye is over +x
    np.testing.assert_allclose(pixels[0], [68.5, 68.5])
    assert depth[0] == pytest.approx(1.4)
    assert depth[1] < depth[0], '+x comes nearer'
    assert pixels[2, 1] < 68.5, '+y goes up'
    assert pixels[3, 0] < 68.5, '+z goes left'
    nearest = np.argmin(project(r2n2_camera(90, 30, 0.8), points)[1])
    assert nearest == 3, 'at 90 degrees the eye is over +z'


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('view', [0, 1])
def test_golden_cameras(golden, name, view):
    fields, camera = golden(f'dataset/fields_{name}.npz'), golden_camera(golden, name, view)
    eye = -camera.world_mat[:, :3].T @ camera.world_mat[:, 3]
    distance = np.linalg.norm(eye)
    azimuth, elevation = np.degrees([np.arctan2(eye[2], eye[0]), np.arcsin(eye[1] / distance)])
    np.testing.assert_allclose(r2n2_camera(azimuth, elevation, distance / 1.75).world_mat, camera.world_mat, atol=1e-14)

    camera = object_camera(camera, fields['pointcloud/loc'], fields['pointcloud/scale'])
    device = to_normalised(camera)
    np.testing.assert_allclose(device.world_mat, fields[f'camera_args_view{view}/Rt'][0], atol=2e-7)
    np.testing.assert_allclose(device.camera_mat, fields[f'camera_args_view{view}/K'][0], atol=2e-7)
    points, expected = fields['points_nonoise/None'][:50], fields[f'projected_view{view}'][0]
    np.testing.assert_allclose(project(device, points)[0], expected, atol=2e-6)
    np.testing.assert_allclose(project(camera, points)[0], (expected + 1) * 68.5, atol=2e-4)


def test_golden_helpers(golden):
    arrays = golden('common_helpers.npz')
    camera = object_camera(Camera(arrays['in/Rt'], arrays['in/K']), arrays['in/loc'], arrays['in/scale'])
    np.testing.assert_allclose(camera.world_mat, arrays['out/fix_Rt_camera'], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_normalised(camera).camera_mat, arrays['out/fix_K_camera_137'], rtol=1e-5, atol=1e-6)
    no_motion = Camera(np.tile(np.eye(3, 4), (2, 1, 1)), arrays['in/K'])
    np.testing.assert_allclose(
        project(no_motion, arrays['in/points'])[0], arrays['out/project_to_camera'], rtol=2e-5, atol=1e-6
    )


def test_frames_agree():
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.5, 0.5, (40, 3)) * [1, 0.3, 0.6]
    loc, diagonal, scale = np.array([30.0, -4.0, 900.0]), 250.0, 170.0
    camera = sample_cameras(2, 5)
    aimed = aim(camera, loc, diagonal)
    pixels, depth = project(camera, points)
    aimed_pixels, aimed_depth = project(aimed, loc + diagonal * points)
    np.testing.assert_allclose(aimed_pixels, pixels, atol=1e-9)
    np.testing.assert_allclose(aimed_depth, diagonal * depth)
    rotation = aimed.world_mat[..., :3]
    np.testing.assert_allclose(rotation @ np.swapaxes(rotation, -1, -2), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12)

    seen = project(object_camera(aimed, loc, scale), points * diagonal / scale)
    np.testing.assert_allclose(seen[0], pixels, atol=1e-9)
    np.testing.assert_allclose(seen[1], diagonal * depth)


def test_cameras_are_drawn_as_the_renderings_were():
    camera = sample_cameras(0, 4000)
    eye = -np.einsum('vji,vj->vi', camera.world_mat[..., :3], camera.world_mat[..., 3])
    distance = np.linalg.norm(eye, axis=1)
    azimuth, elevation = np.degrees(np.arctan2(eye[:, 2], eye[:, 0])) % 360, np.degrees(np.arcsin(eye[:, 1] / distance))
    for values, (low, high) in ((azimuth, (0, 360)), (elevation, ELEVATIONS), (distance / 1.75, DISTANCE_RATIOS)):
        counts, _ = np.histogram(values, 8, (low, high))
        assert counts.sum() == 4000
        np.testing.assert_allclose(counts, 500, rtol=0.2)
    np.testing.assert_array_equal(sample_cameras(7).world_mat, sample_cameras(7).world_mat)
    assert sample_cameras(7).world_mat.shape == (24, 3, 4)


def test_points_beside_the_camera_do_not_raise():
    _, depth = project(r2n2_camera(0, 0, 1), [[1.75, 0, 0], [1.75, 1, 0], [3, 0, 0]])
    np.testing.assert_allclose(depth, [0, 0, -1.25], atol=1e-12)


def some_cameras():
    """Cameras [4] whose matrices are general: another unit, and an intrinsic matrix whose last row is no unit vector."""
    camera = object_camera(aim(sample_cameras(3, 4), [30.0, -4.0, 9.0], 5.0), [30.0, -4.0, 9.0], 4.0)
    return camera._replace(camera_mat=-0.5 * camera.camera_mat)


@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_unprojecting_undoes_projecting_and_rays_pass_through_the_points(xp):
    camera, points = Camera(*map(xp.asarray, some_cameras())), xp.asarray(np.random.default_rng(0).normal(size=(50, 3)))
    pixels, depth = project(camera, points)
    assert pixels.shape == (4, 50, 2)
    again = unproject(camera, pixels, depth)
    assert {type(array) for array in (pixels, depth, again)} == {type(points)}
    assert again.dtype == (np.float64 if xp is np else np.float32)
    atol = 1e-12 if xp is np else 2e-5
    np.testing.assert_allclose(again, np.broadcast_to(points, (4, 50, 3)), atol=atol)
    origins, directions = rays(camera, pixels)
    assert origins.shape == directions.shape == (4, 50, 3)
    np.testing.assert_allclose(project(camera, origins)[1], 0, atol=10 * atol, err_msg='the eye')
    further = project(camera, origins + 2.5 * directions)
    np.testing.assert_allclose(further[0], pixels, atol=1e2 * atol)
    np.testing.assert_allclose(further[1], 2.5, atol=10 * atol)


def test_projection_is_one_function_of_both_libraries_compiled_and_differentiated():
    camera, points = some_cameras(), np.random.default_rng(1).normal(size=(7, 3))
    with jax.enable_x64(True):
        for function, arguments in (
            (project, (points,)),
            (rays, project(camera, points)[:1]),
            (unproject, project(camera, points)),
        ):
            expected = function(camera, *arguments)
            found = jax.jit(function)(camera, *arguments)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12)
        # By the camera and by the points.
        jax.test_util.check_grads(jax.jit(project), (camera, points), order=1, modes=['fwd', 'rev'])


@pytest.mark.slow
def test_preparing_data_starts_no_jax():
    modules = ('cameras', 'inside', 'meshes', 'render', 'sampling', 'solid', 'tiled_marching_cubes', 'voxels')
    code = f'import sys; from onet_jax.geometry import {", ".join(modules)}; sys.exit("jax" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
