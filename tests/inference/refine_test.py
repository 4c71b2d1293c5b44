import jax
import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from onet_jax.data.fields import find_sources, read_inputs
from onet_jax.geometry.refine import refine_mesh, refinement_loss
from onet_jax.inference.reconstruct import bind_input
from onet_jax.inference.refine import refine_file
from onet_jax.run import load_run


@pytest.fixture
def case(workdir, tmp_path):
    """What refines (model, weights, config), the field and frame of a cloud in metres far from the origin, a ball in them."""
    run = load_run(workdir)
    cloud = np.random.default_rng(0).uniform((100, -20, 5), (103, -18, 6), (60, 3))
    np.save(tmp_path / 'cloud.npy', cloud)
    (source,) = find_sources(run.config.data, tmp_path / 'cloud.npy')
    inputs, frame = read_inputs(run.config.data, source, run.config.seed)
    arguments = run.method.model, run.params, run.config
    ball = trimesh.creation.icosphere(2, 0.3)
    trimesh.Trimesh(frame.to_user(ball.vertices), ball.faces).export(tmp_path / 'ball.ply')
    return arguments, bind_input(*arguments, inputs), frame, ball


@pytest.mark.parametrize('kind', ['ply', 'stl'])
def test_a_mesh_file_is_refined_in_the_frame_of_the_user(case, tmp_path, kind):
    arguments, field, frame, ball = case
    trimesh.load(tmp_path / 'ball.ply').export(tmp_path / f'mesh.{kind}')
    paths = tmp_path / f'mesh.{kind}', tmp_path / 'cloud.npy', tmp_path / 'out.ply'
    before, after = refine_file(*arguments, *paths, steps=20)
    refined = trimesh.load(paths[2], process=False)
    assert refined.vertices.shape == ball.vertices.shape, 'also where the file shares no vertices'
    config = arguments[2]
    loss_key, step_key = jax.random.split(jax.random.key(config.seed))
    threshold = config.eval.threshold
    assert before == pytest.approx(refinement_loss(ball, field, loss_key, threshold=threshold), rel=0.1)
    assert after < before
    moved = np.linalg.norm(frame.to_object(refined.vertices), axis=1)
    assert 1e-4 < np.abs(moved - 0.3).max() < 0.02
    if kind == 'ply':
        expected = refine_mesh(ball, field, step_key, steps=20, threshold=threshold)
        distances, _ = cKDTree(expected.vertices).query(frame.to_object(refined.vertices))
        assert distances.max() < 1e-4


def test_faces_are_simplified_first(case, tmp_path):
    paths = tmp_path / 'ball.ply', tmp_path / 'cloud.npy', tmp_path / 'out.off'
    refine_file(*case[0], *paths, steps=1, num_faces=100)
    few = trimesh.load(paths[2], process=False)
    assert 50 < len(few.faces) <= 100
    assert few.is_watertight


def test_what_cannot_be_refined_is_named(case, tmp_path):
    arguments, ball, cloud = case[0], tmp_path / 'ball.ply', tmp_path / 'cloud.npy'
    with pytest.raises(ValueError, match=r"expected one of the formats ply.*to write meshes in, found 'usd'"):
        refine_file(*arguments, ball, cloud, tmp_path / 'out.usd')
    with pytest.raises(FileNotFoundError, match=r'none.ply: expected a mesh'):
        refine_file(*arguments, tmp_path / 'none.ply', cloud, tmp_path / 'out.ply')
    trimesh.creation.icosphere(2, 0.3).export(tmp_path / 'elsewhere.ply')
    with pytest.raises(ValueError, match=r'elsewhere.ply: expected a mesh in the frame of .*cloud.npy'):
        refine_file(*arguments, tmp_path / 'elsewhere.ply', cloud, tmp_path / 'out.ply')
    np.save(tmp_path / 'second.npy', np.eye(3))
    with pytest.raises(ValueError, match=r'--input: expected one input, that of the mesh, found \d in'):
        refine_file(*arguments, ball, tmp_path, tmp_path / 'out.ply')
    with pytest.raises(ValueError, match=r'model: expected one with a field of a whole object, found tuple of cloud'):
        refine_file((), *arguments[1:], ball, cloud, tmp_path / 'out.ply')
    assert not (tmp_path / 'out.ply').exists()
    with pytest.raises(ValueError, match=r'ball.ply: expected a new file, found the input .*ball.ply; choose another'):
        refine_file(*arguments, ball, cloud, ball)
    (tmp_path / 'link.ply').hardlink_to(ball)
    with pytest.raises(ValueError, match=r'link.ply: expected a new file, found the input .*ball.ply; choose another'):
        refine_file(*arguments, ball, cloud, tmp_path / 'link.ply')
    (tmp_path / 'mine.ply').write_text('mine')
    with pytest.raises(ValueError, match=r'mine.ply: expected a new file, found one; delete it'):
        refine_file(*arguments, ball, cloud, tmp_path / 'mine.ply')
    assert (tmp_path / 'mine.ply').read_text() == 'mine'
