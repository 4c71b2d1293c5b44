import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_configs import small_config

from onet_jax import models
from onet_jax.geometry.mise import dense_grid
from onet_jax.models import occupancy
from onet_jax.models.onet import build_module


def random_model(config):
    """Network, weights of which none is the initial one, and the codes of two clouds."""
    model = models.occupancy_network(config.model)
    batch = {'points': jnp.zeros((2, 4, 3)), 'inputs': jax.random.normal(jax.random.key(0), (2, 30, 3))}
    params = model.init(jax.random.key(1), batch)
    # Zero-initialised layers would hide mistakes: make everything random.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return model, tree.unflatten(leaves), model.encode(tree.unflatten(leaves), batch['inputs'])


@pytest.fixture(scope='module')
def model_and_params():
    return random_model(small_config())


def test_pieces_and_whole_agree(model_and_params):
    """More points than one chunk, and not a multiple of it."""
    model, params, cond = model_and_params
    points = jax.random.uniform(jax.random.key(3), (2, occupancy.CHUNK * 2 + 77, 3), minval=-0.5, maxval=0.5)
    logits = model.occupancy(params, points, cond)
    assert logits.shape == points.shape[:2]
    few = model.occupancy(params, points[:, -100:], cond)
    np.testing.assert_allclose(logits[:, -100:], few, atol=1e-5)


def test_occupancy_is_differentiable_in_the_points_forwards_and_backwards(model_and_params):
    model, params, cond = model_and_params
    point = jnp.asarray([0.1, -0.2, 0.3])

    def field(p):
        return model.occupancy(params, p[None, None], cond[:1])[0, 0]

    gradient = jax.grad(field)(point)
    np.testing.assert_allclose(jax.jacfwd(field)(point), gradient, rtol=1e-4, atol=1e-6)
    steps = 1e-2 * np.eye(3)
    slopes = [(field(point + h) - field(point - h)) / 2e-2 for h in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=0.05, atol=0.02)
    assert jnp.isfinite(jax.hessian(field)(point)).all()


def test_occupancy_maps_over_shapes(model_and_params):
    model, params, cond = model_and_params
    points = jax.random.uniform(jax.random.key(3), (2, 9, 3))
    mapped = jax.vmap(lambda p, c: model.occupancy(params, p[None], c[None])[0])(points, cond)
    np.testing.assert_allclose(mapped, model.occupancy(params, points, cond), atol=1e-5)


def test_an_unknown_method_or_encoder_is_named():
    config = small_config()
    with config.unlocked():
        config.model.encoder = 'pointnet'
    with pytest.raises(ValueError, match=r'config.model.encoder.*pointnet_resnet.*pointnet'):
        models.build(config)
    with config.unlocked():
        config.model.name = 'onett'
    with pytest.raises(ValueError, match=r'config.model.name.*onett'):
        models.build(config)


def test_validation_samples_the_prior_where_the_config_says_so():
    """The same draws for the same rows, whatever the batch is."""
    config = small_config()
    with config.unlocked():
        config.model.latent_size = 3
        config.eval.threshold = 0.5
    batch = {
        'points': jax.random.uniform(jax.random.key(0), (4, 50, 3), minval=-0.5, maxval=0.5),
        'occ': jax.random.bernoulli(jax.random.key(5), 0.5, (4, 50)).astype(jnp.float32),
        'inputs': jax.random.normal(jax.random.key(1), (4, 30, 3)),
        'row': jnp.arange(4),
        'subset': jnp.broadcast_to(jnp.arange(20), (4, 20)),
    }
    params = models.occupancy_network(config.model).init(jax.random.key(2), batch)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(3), x.shape), params)
    decoder = params['params']['decoder']
    decoder['fc_z']['kernel'] *= 20  # the code decides
    values = {}
    for sample in (False, True):
        with config.unlocked():
            config.eval.sample = sample
        metrics = models.build(config).metrics
        values[sample] = metrics(params, batch)
        part = metrics(params, {key: value[2:] for key, value in batch.items()})
        for name, value in part.items():
            np.testing.assert_allclose(value, values[sample][name][2:], rtol=1e-4, err_msg=name)
    assert set(values[True]) == {'iou', 'loss', 'reconstruction', 'kl'}
    np.testing.assert_allclose(values[True]['loss'], values[False]['loss'], rtol=1e-5, err_msg='of the posterior')
    assert np.abs(values[True]['iou'] - values[False]['iou']).max() > 0


@pytest.mark.parametrize('latent_size', [0, 4])
@pytest.mark.parametrize('seeded', [False, True])
def test_a_batch_of_meshes_on_an_accelerator_is_that_of_the_host(monkeypatch, latent_size, seeded):
    """The level goes through the middle of the values: an untrained field has an inside nowhere else."""
    config = small_config()
    with config.unlocked():
        config.model.latent_size = latent_size
    model, params, cond = random_model(config)
    codes = cond, jax.random.normal(jax.random.key(4), (2, latent_size)) if latent_size else None
    logits = dense_grid(model.bind(params, *jax.tree.map(lambda code: code[:1], codes)), num_points=17)
    with config.unlocked():
        config.eval.threshold = float(jax.nn.sigmoid(np.median(logits)))
    seeds = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30, 3)).astype(np.float32) if seeded else None
    host = occupancy.decode_meshes(model, config, params, *codes, seeds)
    assert len(host[0].faces) > 100
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(occupancy, 'MAX_LATTICE_POINTS', 17**3)  # one shape at a time
    device = occupancy.decode_meshes(model, config, params, *codes, seeds)
    assert len(device) == len(host) == 2
    for ours, theirs in zip(device, host, strict=True):
        assert ours.is_watertight
        np.testing.assert_allclose(ours.volume, theirs.volume, rtol=1e-3)
        np.testing.assert_allclose(ours.bounds, theirs.bounds, atol=1e-3)


def test_free_nats_count_in_training_only():
    config = small_config()
    with config.unlocked():
        config.model.update(latent_size=3, free_nats=0.25)
    batch = {'points': jnp.zeros((2, 4, 3)), 'inputs': jnp.zeros((2, 30, 3))}
    params = models.occupancy_network(config.model).init(jax.random.key(0), batch)
    params['params']['encoder_latent'] = jax.tree.map(jnp.zeros_like, params['params']['encoder_latent'])
    arguments = batch['points'], jnp.zeros((2, 4)), batch['inputs'], jnp.zeros((2, 3))
    module = build_module(config.model)
    for train, expected in ((True, 0.75), (False, 0.0)):
        (_, divergence), _ = module.apply(params, *arguments, train=train, mutable=['batch_stats'])
        np.testing.assert_allclose(divergence, [expected] * 2, atol=1e-6, err_msg='the posterior is the prior')
