import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_config
from untrained import untrained

from onet_jax import losses
from onet_jax.configs import onet_embedding
from onet_jax.data import user_inputs
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.models import auto_decoding

POINTS = np.random.default_rng(0).uniform(-0.55, 0.55, (4096, 3)).astype(np.float32)


def embedding_config(num_shapes):
    """configs/onet_embedding.py:tiny, small, with the decoder that compiles fastest."""
    config = onet_embedding('tiny')
    with config.unlocked():
        config.mesh = small_config().mesh
        config.model.update(decoder='simple', cond_size=12, decoder_hidden_size=16, num_shapes=num_shapes, code_std=1.0)
        config.eval.batch_size = 2
    return config


@pytest.fixture(scope='module')
def network():
    """A network of random weights with five learned codes, of which each is another shape."""
    method, params = untrained(embedding_config(5))
    output, learned = params['params']['decoder']['fc_out'], params['params']['encoder']['embedding']
    logits = method.model.occupancy(params, np.broadcast_to(POINTS, (5, *POINTS.shape)), learned)
    output['bias'] = 300 * (output['bias'] - np.median(logits))
    output['kernel'] *= 300
    return method.model, params


def label(model, params, code):
    """Points with the labels that the network itself gives them for a code."""
    logits = model.occupancy(params, POINTS[None], code[None])
    return np.column_stack([POINTS, logits[0] > 0])


def test_a_fit_begins_at_the_learned_code_that_explains_the_points_best(network, monkeypatch):
    model, params = network
    monkeypatch.setattr(auto_decoding, 'NUM_STEPS', 1)
    monkeypatch.setattr(auto_decoding, 'LEARNING_RATE', 0.0)
    learned = params['params']['encoder']['embedding']
    labelled = np.stack([label(model, params, learned[i])[:1024] for i in (3, 1)])

    @jax.jit
    def misfit(code, rows):
        logits = model.occupancy(params, rows[None, :, :3], code[None])[0]
        return losses.occupancy_bce(logits, rows[:, 3]).sum()

    best = [np.argmin([misfit(code, rows[::2]) for code in learned]) for rows in labelled]
    assert best[0] != best[1]
    np.testing.assert_array_equal(model.encode(params, labelled), learned[np.array(best)])


@pytest.mark.slow
def test_a_code_that_no_shape_has_is_found(network):
    model, params = network
    learned = params['params']['encoder']['embedding']
    code = 0.6 * learned[0] + 0.4 * learned[2]
    labelled = label(model, params, code)
    found = auto_decoding.fit_codes(jax.random.key(0), model, params, labelled[None])

    def agreement(code):
        return (label(model, params, code)[:, 3] == labelled[:, 3]).mean()

    assert agreement(found[0]) > 0.97
    assert agreement(found[0]) > max(agreement(code) for code in learned) + 0.01
    again = auto_decoding.fit_codes(jax.random.key(0), model, params, labelled[None])
    np.testing.assert_array_equal(found, again)


@pytest.mark.slow
def test_training_shapes_have_codes_and_to_others_they_are_fitted(dataset, tmp_path, monkeypatch):
    """To half of their labelled points, and to a mesh in its own frame."""
    monkeypatch.setattr(auto_decoding, 'NUM_STEPS', 20)
    config = embedding_config(9)
    method, params = untrained(config)
    own, others = (list(evaluate(method, params, config, open_dataset(dataset), split)) for split in ('train', 'test'))
    assert [int(result.inputs['index']) for result in own] == list(range(9))
    assert [result.inputs['labels'].shape for result in others] == [(2500, 4)] * 3
    assert all(0 <= result.scores['iou'] <= 1 for result in own + others)

    mesh = trimesh.creation.box((4, 4, 3))
    mesh.apply_translation((10, 20, 30))
    (tmp_path / 'meshes').mkdir()
    for name, content in mesh.export(file_type='gltf').items():
        (tmp_path / 'meshes' / name).write_bytes(content)
    monkeypatch.setattr(user_inputs, 'NUM_FITTED_POINTS', 2500)
    (path,) = reconstruct_files(method, params, config, tmp_path / 'meshes', tmp_path / 'out', 'ply')
    low, high = trimesh.load(path).bounds
    assert (low > [7.7, 17.7, 27.7]).all()
    assert (high < [12.3, 22.3, 32.3]).all()
