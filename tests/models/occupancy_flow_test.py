import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from untrained import draw_weights

from onet_jax import models
from onet_jax.configs import occupancy_flow as make_config
from onet_jax.errors import InputError, PredictionError
from onet_jax.geometry.ode import ADJOINTS
from onet_jax.geometry.sequences import CloudSequence, MeshSequence
from onet_jax.models.occupancy_flow import make_model
from onet_jax.models.velocity_field import move_mesh

B, L, P, T = 3, 4, 6, 5
RANDOM = np.random.default_rng(0)
CLIP = RANDOM.normal(scale=0.3, size=(B, L, P, 3)).astype(np.float32)
POINTS = RANDOM.normal(scale=0.3, size=(B, T, 3)).astype(np.float32)
TIMES = np.linspace(0, 1, L, dtype=np.float32)
TINY = {
    'cond_size': 8,
    'encoder_hidden_size': 8,
    'decoder_hidden_size': 8,
    'velocity_hidden_size': 8,
    'velocity_blocks': 2,
}
TARGETS = {
    'points': POINTS,
    'occ': (RANDOM.random((B, T)) > 0.5).astype(np.float32),
    'later_points': POINTS[:, ::-1],
    'later_occ': (RANDOM.random((B, T)) > 0.5).astype(np.float32),
    'time': np.array([0.0, 0.4, 1.0], np.float32),
    'trajectories': CLIP,
}


def random_weights(init, *arguments):
    """Those of `init`, of which some are zero before training, drawn without compiling it."""
    return draw_weights(jax.eval_shape(init, jax.random.key(0), *arguments))


@pytest.fixture(scope='module')
def trained():
    """A model, its weights and its codes of `CLIP`."""
    model = make_model(decoder='simple', rtol=1e-5, atol=1e-7, **TINY)
    params = random_weights(model.init, CLIP)
    return model, params, model.encode(params, CLIP)


def test_points_come_back_to_where_they_were(trained):
    model, params, cond = trained
    moved = model.advect(params, POINTS, TIMES, cond)
    assert np.array_equal(moved[:, 0], POINTS)
    assert np.abs(moved[:, -1] - POINTS).max() > 0.02
    for frame in (0, 2):
        time = np.full(B, TIMES[frame])
        back = model.pull_back(params, moved[:, frame], time, cond)
        assert np.abs(back - POINTS).max() < 2e-3
        logits = model.occupancy_at(params, moved[:, frame], time, cond)
        assert np.allclose(logits, model.occupancy(params, POINTS, cond), atol=2e-2)
    returned = model.advect(params, moved[:, -1], TIMES, cond, backward=True)
    assert np.abs(returned - moved[:, ::-1]).max() < 2e-3


def test_other_sequences_of_the_batch_do_not_change_a_path(trained):
    model, params, cond = trained
    whole = model.advect(params, POINTS, TIMES, cond)
    alone = model.advect(params, POINTS[1:2], TIMES, jax.tree.map(lambda code: code[1:2], cond))
    assert np.allclose(whole[1], alone[0], atol=2e-4)  # rounding moves points across kinks of ReLUs


def test_a_mesh_keeps_its_faces_and_its_path_whatever_it_is_padded_to(trained):
    model, params, cond = trained
    code, mesh = jax.tree.map(lambda code: code[:1], cond), trimesh.creation.icosphere(subdivisions=1, radius=0.4)
    moved = move_mesh(model, params, TIMES, mesh, code)
    assert isinstance(moved, MeshSequence)
    assert np.array_equal(moved.faces, mesh.faces)
    vertices = np.asarray(mesh.vertices, np.float32)
    assert np.allclose(moved.vertices, model.advect(params, vertices[None], TIMES, code)[0], atol=2e-3)


def test_interpolation_is_exact_at_both_ends(trained):
    model, params, cond = trained
    found = model.interpolate(params, CLIP[:, 0], CLIP[:, -1], L, cond)
    assert np.array_equal(found[:, 0], CLIP[:, 0])
    assert np.array_equal(found[:, -1], CLIP[:, -1])
    forwards = model.advect(params, CLIP[:, 0], TIMES, cond)
    backwards = model.advect(params, CLIP[:, -1], TIMES, cond, backward=True)[:, ::-1]
    assert np.allclose(found[:, 1], 2 / 3 * forwards[:, 1] + 1 / 3 * backwards[:, 1], atol=1e-6)


def test_a_field_that_is_too_stiff_is_named(trained):
    _, params, cond = trained
    model = make_model(decoder='simple', rtol=1e-6, atol=1e-8, max_steps=2, **TINY)
    with pytest.raises(
        PredictionError,
        match=r'sequence 0 of the batch: expected to integrate .* in at most 2 steps, found 0\.\d+ of its duration',
    ):
        model.advect(params, POINTS, TIMES, cond)


@pytest.mark.slow
def test_the_loss_is_the_sum_of_the_terms_whose_targets_there_are(trained):
    model, params, _ = trained
    loss = jax.jit(lambda targets: model.loss(params, targets, CLIP))
    whole, aux = loss(TARGETS)
    assert set(aux.scalars) == {'reconstruction', 'later_reconstruction', 'correspondence'}
    assert float(whole) == pytest.approx(sum(map(float, aux.scalars.values())), rel=1e-6)
    alone, aux = loss({'trajectories': CLIP})
    assert set(aux.scalars) == {'correspondence'}
    moved = model.advect(params, CLIP[:, 0], TIMES, model.encode(params, CLIP))
    assert float(alone) == pytest.approx(float(np.linalg.norm(moved - CLIP, axis=-1)[:, 1:].mean()), rel=1e-4)


@pytest.mark.parametrize('adjoint', ADJOINTS)
@pytest.mark.slow
def test_the_gradient_of_the_loss_is_that_of_finite_differences(monkeypatch, adjoint):
    """Of smooth activations: across the kinks of ReLUs finite differences do not converge."""
    monkeypatch.setattr(nn, 'relu', nn.softplus)
    with jax.enable_x64(True):
        inputs, targets = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), (CLIP, TARGETS))
        model = make_model(decoder='simple', rtol=1e-9, atol=1e-11, max_steps=400, adjoint=adjoint, leaky=False, **TINY)
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), random_weights(model.init, inputs))
        loss = jax.jit(lambda params: model.loss(params, targets, inputs)[0])
        gradient = jax.jit(jax.grad(loss))(params)
        for seed in range(3):
            key = jax.random.key(seed)
            change = jax.tree.map(lambda x, key=key: 1e-5 * jax.random.normal(key, x.shape, x.dtype), params)
            ends = [loss(jax.tree.map(lambda x, d, s=sign: x + s * d, params, change)) for sign in (1, -1)]
            expected = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, change)))
            assert abs((ends[0] - ends[1]) / 2 - expected) <= 1e-5 * abs(expected)


def tiny_config(variant):
    config = make_config(f'tiny,{variant}')
    with config.unlocked():
        config.model.update(TINY)
        config.data.num_frames = L
    return config


@pytest.mark.parametrize('variant', ['correspondence', 'generative'])
def test_joined_frames_need_points_that_correspond(variant):
    config = tiny_config(variant)
    config.data.corresponding = False
    with pytest.raises(InputError, match=r'config.data.corresponding: expected True, .* found False'):
        models.build(config)


@pytest.mark.slow
def test_generative_codes_have_a_posterior_and_a_prior():
    config = tiny_config('generative')
    with config.unlocked():
        config.model.latent_size = 3
    method = models.build(config)
    batch = {
        'inputs': {'none': np.zeros((B, 0), np.float32)},
        'targets': {**TARGETS, 'clip': CLIP},
        'row': np.arange(B),
    }
    params = random_weights(method.init, batch)
    means, log_stds = method.model.posterior(params, CLIP, method.model.encode(params, np.zeros((B, 0), np.float32)))
    assert [code.shape for code in (*means, *log_stds)] == [(B, 3)] * 4
    _, aux = jax.jit(method.loss, static_argnums=3)(params, batch, jax.random.key(0), None)
    divergence = [np.asarray(0.5 * (np.exp(2 * s) + m**2 - 1) - s) for m, s in zip(means, log_stds, strict=True)]
    assert float(aux.scalars['kl']) == pytest.approx(1e-4 * sum(map(np.mean, divergence)), rel=1e-4)
    shape, motion = method.model.prior(jax.random.key(0), np.arange(B))
    assert shape.shape == (B, 3)
    assert not np.allclose(shape, motion)


def test_a_network_without_decoder_moves_the_points_of_its_input():
    method = models.build(tiny_config('matching'))
    inputs = {'end_clouds': CLIP[:, [0, -1]]}
    params = random_weights(method.init, {'inputs': inputs, 'targets': {}})
    found = method.predict(params, inputs, jax.random.key(0))
    assert [type(sequence) for sequence in found] == [CloudSequence] * B
    assert found[0].points.shape == (L, P, 3)
    assert np.array_equal(found[0].points[0], CLIP[0, 0])
    with pytest.raises(InputError, match=r'occupancy: expected a network with a decoder'):
        method.model.occupancy(params, POINTS, method.model.encode(params, inputs['end_clouds']))
