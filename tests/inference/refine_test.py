import jax
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from onet_jax.geometry.refine import refine_mesh, refinement_loss
from onet_jax.inference.inputs import bind_input, cloud_input
from onet_jax.inference.refine import refine_file
from onet_jax.training.checkpoints import load_run


@pytest.fixture
def case(workdir, tmp_path):
    """A run, a cloud in metres far from the origin, and a ball in its frame."""
    run = load_run(workdir)
    cloud = np.random.default_rng(0).uniform((100, -20, 5), (103, -18, 6), (60, 3))
    np.save(tmp_path / 'cloud.npy', cloud)
    values, frame = cloud_input(cloud, run.config)
    ball = trimesh.creation.icosphere(2, 0.3)
    trimesh.Trimesh(frame.to_user(ball.vertices), ball.faces).export(tmp_path / 'ball.ply')
    return run, values, frame, ball


@pytest.mark.parametrize('kind', ['ply', 'stl'])
def test_a_mesh_file_is_refined_in_the_frame_of_the_user(case, tmp_path, kind):
    run, values, frame, ball = case
    trimesh.load(tmp_path / 'ball.ply').export(tmp_path / f'mesh.{kind}')
    paths = tmp_path / f'mesh.{kind}', tmp_path / 'cloud.npy', tmp_path / 'out.ply'
    before, after = refine_file(run.params, run.config, *paths, steps=20)
    refined = trimesh.load(paths[2], process=False)
    assert refined.vertices.shape == ball.vertices.shape, 'also where the file shares no vertices'
    field, threshold = bind_input(run.params, run.config, values), run.config.eval.threshold
    loss_key, step_key = jax.random.split(jax.random.key(run.config.seed))
    assert before == pytest.approx(refinement_loss(ball, field, loss_key, threshold=threshold), rel=0.1)
    assert after < before
    moved = np.linalg.norm(frame.to_object(refined.vertices), axis=1)
    assert 1e-4 < np.abs(moved - 0.3).max() < 0.02
    if kind == 'ply':
        expected = refine_mesh(ball, field, step_key, steps=20, threshold=threshold)
        distances, _ = cKDTree(expected.vertices).query(frame.to_object(refined.vertices))
        assert distances.max() < 1e-4


def test_faces_are_simplified_first(case, tmp_path):
    run, *_ = case
    paths = tmp_path / 'ball.ply', tmp_path / 'cloud.npy', tmp_path / 'out.off'
    refine_file(run.params, run.config, *paths, steps=1, num_faces=100)
    few = trimesh.load(paths[2], process=False)
    assert 50 < len(few.faces) <= 100
    assert few.is_watertight


def test_what_cannot_be_refined_is_named(case, tmp_path):
    run, *_ = case
    arguments = run.params, run.config
    with pytest.raises(ValueError, match=r"--output: expected a file of one of the formats \('ply', .*found .*out.usd"):
        refine_file(*arguments, tmp_path / 'ball.ply', tmp_path / 'cloud.npy', tmp_path / 'out.usd')
    trimesh.creation.icosphere(2, 0.3).export(tmp_path / 'elsewhere.ply')
    with pytest.raises(ValueError, match=r'elsewhere.ply: expected a mesh in the frame of .*cloud.npy'):
        refine_file(*arguments, tmp_path / 'elsewhere.ply', tmp_path / 'cloud.npy', tmp_path / 'out.ply')
    np.save(tmp_path / 'second.npy', np.eye(3))
    with pytest.raises(ValueError, match=r'--input: expected one input, that of the mesh, found \d in'):
        refine_file(*arguments, tmp_path / 'ball.ply', tmp_path, tmp_path / 'out.ply')
    assert not (tmp_path / 'out.ply').exists()
    with pytest.raises(ValueError, match=r'ball.ply: expected a new file, found the input .*ball.ply; choose another'):
        refine_file(*arguments, tmp_path / 'ball.ply', tmp_path / 'cloud.npy', tmp_path / 'ball.ply')
