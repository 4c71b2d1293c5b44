import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_configs import small_config
from untrained import untrained

from onet_jax import metrics, models
from onet_jax.errors import InputError
from onet_jax.geometry.mise import dense_grid
from onet_jax.models import occupancy, onet


def random_model(config):
    """Network, weights of which none is the initial one, and the codes of two clouds."""
    method, params = untrained(config)
    return method.model, params, method.model.encode(params, jax.random.normal(jax.random.key(0), (2, 30, 3)))


@pytest.fixture(scope='module')
def model_and_params():
    return random_model(small_config())


def test_pieces_and_whole_agree(model_and_params):
    """More points than one chunk, and not a multiple of it."""
    model, params, cond = model_and_params
    points = jax.random.uniform(jax.random.key(3), (2, occupancy.DECODED_POINTS * 2 + 77, 3), minval=-0.5, maxval=0.5)
    logits = model.occupancy(params, points, cond)
    assert logits.shape == points.shape[:2]
    few = model.occupancy(params, points[:, -100:], cond)
    np.testing.assert_allclose(logits[:, -100:], few, atol=1e-5)


def test_occupancy_is_differentiable_in_the_points_forwards_and_backwards(model_and_params):
    model, params, cond = model_and_params
    point = np.float32([0.1, -0.2, 0.3])

    @jax.jit
    def field(p):
        return model.occupancy(params, p[None, None], cond[:1])[0, 0]

    gradient, forwards, hessian = (jax.jit(f(field))(point) for f in (jax.grad, jax.jacfwd, jax.hessian))
    np.testing.assert_allclose(forwards, gradient, rtol=1e-4, atol=1e-6)
    steps = 1e-2 * np.eye(3, dtype=np.float32)
    slopes = [(field(point + h) - field(point - h)) / 2e-2 for h in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=0.05, atol=0.02)
    assert np.isfinite(hessian).all()


def test_occupancy_maps_over_shapes(model_and_params):
    model, params, cond = model_and_params
    points = jax.random.uniform(jax.random.key(3), (2, 9, 3))
    mapped = jax.jit(jax.vmap(lambda p, c: model.occupancy(params, p[None], c[None])[0]))(points, cond)
    np.testing.assert_allclose(mapped, model.occupancy(params, points, cond), atol=1e-5)


@pytest.mark.parametrize(
    'points, occ, cloud, message',
    [
        ((9, 3), (9,), (2, 30, 3), r'points: expected an array \[B, T, 3\], found the shape \[9, 3\]'),
        ((2, 9), (2, 9), (2, 30, 3), r'points: expected an array \[B, T, 3\], found the shape \[2, 9\]'),
        (
            (2, 9, 3),
            (2, 9, 1),
            (2, 30, 3),
            r'occ: expected \[2, 9\], a value for each of the points, found \[2, 9, 1\]',
        ),
        ((2, 9, 3), (2, 9), (3, 30, 3), r'inputs: expected B = 2 rows, as points have, found arrays of \[\(3,\)\]'),
    ],
)
def test_the_loss_names_an_array_of_a_wrong_shape(model_and_params, points, occ, cloud, message):
    model, params, _ = model_and_params
    with pytest.raises(InputError, match=message):
        model.loss(params, *map(jnp.zeros, (points, occ, cloud)))
    cond = model.encode(params, jnp.zeros(cloud))
    with pytest.raises(InputError, match=message.replace('inputs', 'cond')):
        model.posterior(params, jnp.zeros(points), jnp.zeros(occ), cond)


def test_integers_lists_and_foreign_arrays_count_as_their_numbers(model_and_params):
    model, params, codes = model_and_params
    points, occ = np.arange(-9, 9).reshape(2, 3, 3) % 2, np.array([[0, 1, 1], [1, 0, 0]])
    cloud = np.random.default_rng(0).integers(-2, 3, (2, 30, 3))

    class Foreign:
        def __array__(self, dtype=None, copy=None):
            return points

    wanted = model.occupancy(params, points.astype(np.float32), codes)
    for given in (points, points != 0, points.tolist(), Foreign()):
        np.testing.assert_allclose(model.occupancy(params, given, codes), wanted, atol=1e-5)
    code = model.encode(params, cloud.astype(np.float32))
    for given in (cloud, cloud.tolist()):
        np.testing.assert_allclose(model.encode(params, given), code, atol=1e-5)
    loss, _ = jax.jit(model.loss)(params, *(array.astype(np.float32) for array in (points, occ, cloud)))
    given, _ = jax.jit(lambda params: model.loss(params, points, occ.tolist(), cloud))(params)
    np.testing.assert_allclose(given, loss, rtol=1e-5)


@pytest.mark.parametrize(
    'inputs, message',
    [
        (np.zeros((7, 3)), r'inputs: expected an array \[B, P, 3\] of the field .cloud., found the shape \[7, 3\]'),
        (np.zeros((2, 7, 2)), r'inputs: expected an array \[B, P, 3\]'),
        (np.zeros((1, 0, 3)), r'inputs: expected an array \[B, P, 3\]'),
        (np.zeros((1, 8, 8, 3)), r'inputs: expected an array \[B, P, 3\]'),
        (np.zeros((2, 7, 3), complex), 'inputs: expected real numbers, found complex'),
        ([[[1, 2, 3], [4, 5]]], 'inputs: expected an array of numbers'),
    ],
)
def test_what_is_no_cloud_is_named(model_and_params, inputs, message):
    model, params, codes = model_and_params
    with pytest.raises(InputError, match=message):
        model.encode(params, inputs)
    if isinstance(inputs, np.ndarray):
        num = len(inputs)
        with pytest.raises(InputError, match=message):
            model.loss(params, np.zeros((num, 4, 3)), np.zeros((num, 4)), inputs)
    with pytest.raises(InputError, match='points: expected real numbers, found complex'):
        model.occupancy(params, np.zeros((2, 4, 3), complex), codes)
    with pytest.raises(InputError, match='points: expected real numbers, found complex'):
        model.bind(params, codes[:1])(np.zeros((4, 3), complex))


def test_an_unknown_method_encoder_or_input_is_named():
    config = small_config()
    for group, key, value, message in (
        ('data', 'inputs', ('voxels',), r"config.data.inputs: expected \('cloud',\), .*found \('voxels',\)"),
        ('model', 'encoder', 'pointnet', r"config.model.encoder: expected .*pointnet_resnet.*'pointnet'"),
        ('model', 'decoder', 'cbn', r"config.model.decoder: expected .*cbatchnorm.*'cbn'"),
        ('eval', 'threshold', 1.5, r'config.eval.threshold: expected a probability .* found 1.5'),
        ('train', 'dtype', 'float16', r"config.train.dtype: expected .*bfloat16.*'float16'"),
        ('model', 'name', 'onett', r"config.model.name: expected .*'onet'.*'onett'"),
    ):
        wrong = config.copy_and_resolve_references()
        with wrong.unlocked():
            wrong[group][key] = value
        with pytest.raises(InputError, match=message):
            models.build(wrong)


@pytest.mark.slow
def test_validation_samples_the_prior_where_the_config_says_so():
    """The same draws for the same rows, wherever in a batch they are."""
    config = small_config()
    with config.unlocked():
        config.model.update(decoder='simple', latent_size=3)
        config.eval.threshold = 0.5
    rng = np.random.default_rng(0)
    targets = {
        'points': rng.uniform(-0.5, 0.5, (4, 50, 3)).astype(np.float32),
        'occ': rng.integers(0, 2, (4, 50)).astype(np.float32),
        'subset': np.tile(np.arange(20), (4, 1)),
    }
    inputs = {'cloud': rng.normal(size=(4, 30, 3)).astype(np.float32)}
    batch = {'inputs': inputs, 'targets': targets, 'row': np.arange(4)}
    _, params = untrained(config)
    params['params']['decoder']['fc_z']['kernel'] *= 20  # the code decides
    values = {}
    for sample in (False, True):
        with config.unlocked():
            config.eval.sample = sample
        metrics = jax.jit(models.build(config).metrics)
        values[sample] = metrics(params, batch)
        reversed_ = metrics(params, jax.tree.map(lambda array: array[::-1], batch))
        for name, value in reversed_.items():
            np.testing.assert_allclose(value, values[sample][name][::-1], rtol=1e-4, err_msg=name)
    assert set(values[True]) == {'iou', 'loss', 'reconstruction', 'kl'}
    np.testing.assert_allclose(values[True]['loss'], values[False]['loss'], rtol=1e-5, err_msg='of the posterior')
    assert np.abs(values[True]['iou'] - values[False]['iou']).max() > 0


@pytest.mark.parametrize('latent_size, seeded', [(0, False), (4, True)])
def test_a_batch_of_meshes_on_an_accelerator_is_that_of_the_host(monkeypatch, latent_size, seeded):
    """The level goes through the middle of the values: an untrained field has an inside nowhere else."""
    config = small_config()
    with config.unlocked():
        config.model.latent_size = latent_size
    model, params, cond = random_model(config)
    codes = cond, jax.random.normal(jax.random.key(4), (2, latent_size)) if latent_size else None
    logits = dense_grid(model.bind(params, *jax.tree.map(lambda code: code[:1], codes)), num_points=17)
    settings = {**config.mesh, 'threshold': float(jax.nn.sigmoid(np.median(logits)))}
    seeds = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30, 3)).astype(np.float32) if seeded else None
    host = occupancy.decode_meshes(model, params, *codes, seeds, **settings)
    assert len(host[0].faces) > 100
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(occupancy, 'MAX_LATTICE_POINTS', 17**3)  # one shape at a time
    device = occupancy.decode_meshes(model, params, *codes, seeds, **settings)
    assert len(device) == len(host) == 2
    for ours, theirs in zip(device, host, strict=True):
        assert ours.is_watertight
        np.testing.assert_allclose(ours.volume, theirs.volume, rtol=1e-3)
        np.testing.assert_allclose(ours.bounds, theirs.bounds, atol=1e-3)


def test_free_bits_count_in_the_loss_only():
    sizes = {'cond_size': 12, 'encoder_hidden_size': 8, 'decoder_hidden_size': 16, 'latent_size': 3}
    model = onet.make_model(decoder='simple', free_bits=0.25, **sizes)
    points, occ, clouds = (np.zeros(shape, np.float32) for shape in ((2, 4, 3), (2, 4), (2, 30, 3)))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(model.init, jax.random.key(0), clouds))
    _, aux = jax.jit(model.loss)(params, points, occ, clouds, jax.random.key(1))
    np.testing.assert_allclose(aux.scalars['kl'], 0.75, atol=1e-6, err_msg='the posterior is the prior')
    _, divergence = jax.jit(model.elbo_terms)(params, points, occ, clouds, np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(divergence, [0, 0], atol=1e-6)
    with pytest.raises(InputError, match='loss: expected a key for the noise of the latent codes, found None'):
        model.loss(params, points, occ, clouds)


@pytest.mark.slow
def test_own_training_loop():
    """Training outside of any config or file: arrays, the public functions of the model, and optax."""
    model = onet.make_model(cond_size=16, encoder_hidden_size=16, decoder_hidden_size=16)
    rng = np.random.default_rng(0)

    def draw_batch(num_shapes=12):
        """Spheres of random radii: clouds on them, and points of the cube with their occupancies."""
        radii = rng.uniform(0.3, 0.5, (num_shapes, 1))
        directions = rng.normal(size=(num_shapes, 50, 3))
        clouds = radii[..., None] * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        points = rng.uniform(-0.55, 0.55, (num_shapes, 128, 3))
        occ = np.linalg.norm(points, axis=-1) < radii
        return [array.astype(np.float32) for array in (points, occ, clouds)]

    variables = model.init(jax.random.key(0), draw_batch()[2])
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, 100))
    opt_state = tx.init(variables['params'])

    @jax.jit
    def step(variables, opt_state, points, occ, clouds):
        def loss(params):
            return model.loss({**variables, 'params': params}, points, occ, clouds)

        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(variables['params'])
        updates, opt_state = tx.update(gradient, opt_state)
        params = optax.apply_updates(variables['params'], updates)
        return {**variables, **aux.mutated, 'params': params}, opt_state, value

    def iou(variables):
        points, occ, clouds = draw_batch()
        logits = model.occupancy(variables, points, model.encode(variables, clouds))
        return metrics.iou(logits > 0, occ > 0.5).mean()

    before, values = iou(variables), []
    for _ in range(100):
        variables, opt_state, value = step(variables, opt_state, *draw_batch())
        values.append(value)
    assert np.mean(values[-20:]) < 0.3 * np.mean(values[:20])
    assert before < 0.5
    assert iou(variables) > 0.8
