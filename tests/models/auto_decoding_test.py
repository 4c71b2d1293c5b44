import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_config

from configs import onet_embedding
from onet_jax import losses, models
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.models import auto_decoding
from onet_jax.training.checkpoints import load_run
from onet_jax.training.loop import train


def embedding_config(num_shapes, **train):
    """configs/onet_embedding.py:tiny, small."""
    small, config = small_config(**train), onet_embedding.get_config('tiny')
    with config.unlocked():
        for group in ('mesh', 'optim', 'train'):
            config[group] = small[group]
        config.model.update(cond_size=12, decoder_hidden_size=16, num_shapes=num_shapes, code_std=1.0)
        config.eval.batch_size = 2
    return config


@pytest.fixture
def network():
    """A network of random weights with five learned codes, of which each is another shape."""
    config = embedding_config(5)
    params = models.build(config).init(jax.random.key(0), models.example_batch(config.model))
    rng = np.random.default_rng(3)
    moved = jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(np.float32), params['params'])
    return config, {**params, 'params': moved}


def label(config, params, code, num_points=1200):
    """Points with the labels that the network itself gives them for a code."""
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (num_points, 3)).astype(np.float32)
    logits = models.occupancy_network(config.model).occupancy(params, points[None], code[None])
    return np.column_stack([points, logits[0] > 0])


def test_a_fit_begins_at_the_learned_code_that_explains_the_points_best(network, monkeypatch):
    config, params = network
    monkeypatch.setattr(auto_decoding, 'NUM_STEPS', 1)
    monkeypatch.setattr(auto_decoding, 'LEARNING_RATE', 0.0)
    learned = params['params']['encoder']['embedding']
    labelled = np.stack([label(config, params, learned[i], 1024) for i in (3, 1)])
    occupancy = models.occupancy_network(config.model).occupancy

    def misfit(code, rows):
        return float(losses.occupancy_bce(occupancy(params, rows[None, :, :3], code[None])[0], rows[:, 3]).sum())

    best = [np.argmin([misfit(code, rows[::2]) for code in learned]) for rows in labelled]
    assert best[0] != best[1]
    np.testing.assert_array_equal(
        auto_decoding.fit_codes(jax.random.key(0), params, config, labelled), learned[np.array(best)]
    )


def test_a_code_that_no_shape_has_is_found(network):
    config, params = network
    learned = params['params']['encoder']['embedding']
    code = 0.6 * learned[0] + 0.4 * learned[2]
    labelled, fresh = label(config, params, code, 6000), label(config, params, code, 5000)
    found = auto_decoding.fit_codes(jax.random.key(0), params, config, labelled[None])

    def agreement(code):
        return (label(config, params, code, 5000)[:, 3] == fresh[:, 3]).mean()

    assert agreement(found[0]) > 0.97
    assert agreement(found[0]) > max(agreement(code) for code in learned) + 0.01
    again = auto_decoding.fit_codes(jax.random.key(0), params, config, labelled[None])
    np.testing.assert_array_equal(found, again)


def test_a_mesh_becomes_labelled_points_in_object_coordinates():
    mesh = trimesh.creation.box((4, 2, 1))
    mesh.apply_translation((10, 20, 30))
    labelled, frame = auto_decoding.labelled_points(mesh, seed=0)
    assert labelled.shape == (auto_decoding.NUM_POINTS, 4)
    points, occ = labelled[:, :3], labelled[:, 3]
    np.testing.assert_array_equal(occ, (np.abs(points) < [0.5, 0.25, 0.125]).all(axis=1))
    assert (occ.mean(), points.min(), points.max()) == pytest.approx((0.125 / 1.1**3, -0.55, 0.55), rel=0.1)
    np.testing.assert_allclose(frame.loc, [10, 20, 30])
    assert frame.scale == 4


@pytest.fixture(scope='module')
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'embedding'
    train(embedding_config(9, num_steps=60, batch_size=8, eval_every_steps=60), folder, dataset)
    return load_run(folder)


def test_an_embedding_is_evaluated_on_its_own_shapes_and_fitted_to_others(trained, dataset):
    own = list(evaluate(trained.method, trained.params, trained.config, dataset, 'train'))
    assert [int(result.inputs) for result in own] == list(range(9))
    others = list(evaluate(trained.method, trained.params, trained.config, dataset, 'test'))
    assert [result.inputs.shape for result in others] == [(2500, 4)] * 3, 'half of the labelled points'
    assert all(0 <= result.scores['iou'] <= 1 for result in own + others)


def test_a_file_is_reconstructed_in_its_own_frame(trained, tmp_path):
    mesh = trimesh.creation.box((4, 2, 1))
    mesh.apply_translation((10, 20, 30))
    mesh.export(tmp_path / 'box.off')
    centre = models.Method(None, None, None, None)
    (path,) = reconstruct_files(centre, trained.params, trained.config, tmp_path / 'box.off', tmp_path / 'out', 'ply')
    low, high = trimesh.load(path).bounds
    assert (low > [7.7, 17.7, 27.7]).all()
    assert (high < [12.3, 22.3, 32.3]).all()
    (tmp_path / 'flat.off').write_text('OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n')
    with pytest.raises(ValueError, match=r'flat\.off: mesh: expected a solid, found a flat one'):
        reconstruct_files(centre, trained.params, trained.config, tmp_path / 'flat.off', tmp_path / 'out', 'ply')


def test_the_number_of_codes_is_that_of_the_training_shapes(dataset, tmp_path):
    with pytest.raises(ValueError, match=r'config.model.num_shapes: expected 9, the training shapes of .*, found 5'):
        train(embedding_config(5), tmp_path / 'run', dataset)
    config = small_config()
    with config.unlocked():
        config.data.sampling = 'equal'
    with pytest.raises(ValueError, match=r"config.data.sampling: expected 'uniform', .* with --sampling=equal"):
        train(config, tmp_path / 'run', dataset)
    assert not (tmp_path / 'run').exists()
