"""Texture Fields on small widths (their numbers: tests/parity_test.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numbered_shapes import write_numbered_shapes
from untrained import draw_weights, untrained

from onet_jax import models
from onet_jax.configs import texture_field as make_config
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera, sample_cameras, to_normalised
from onet_jax.geometry.views import Pictures, unproject_depth
from onet_jax.models import texture_field
from onet_jax.models.occupancy import DECODED_POINTS
from onet_jax.run import load_run
from onet_jax.training import checkpoints, loop
from onet_jax.training.log import read_log

B, V, S, P = 3, 2, 8, 9
RANDOM = np.random.default_rng(0)
WIDTHS = {
    'cond_size': 6, 'geometry_size': 5, 'encoder_hidden_size': 4, 'decoder_hidden_size': 8, 'geometry_hidden_size': 8,
    'picture_hidden_size': 4,
}  # fmt: skip
KINDS = {
    'conditional': {'encoder': 'simple_conv', 'decoder': 'each_layer_c', 'geometry_encoder': 'resnet'},
    'vae': {'encoder': 'none', 'decoder': 'each_layer_c', 'geometry_encoder': 'simple', 'vae_encoder': 'resnet'},
    'gan': {
        'encoder': 'none', 'decoder': 'each_layer_c', 'geometry_encoder': 'simple',
        'discriminator': 'resnet_conditional',
    },
    'nvs': {'encoder': 'simple_conv', 'decoder': 'unet', 'geometry_encoder': 'none'},
}  # fmt: skip


def make_inputs(size=S, batch=B):
    """Views of a shape that fills half of each picture, and the pictures."""
    depth = RANDOM.uniform(1.0, 1.4, (batch, V, size, size)) * (RANDOM.random((batch, V, size, size)) < 0.5)
    cameras = [to_px(sample_cameras(seed, V), size) for seed in range(batch)]
    inputs = {
        'image': RANDOM.random((batch, 64, 64, 3)),
        'oriented_cloud': RANDOM.normal(size=(batch, P, 6)),
        'view_depth': depth,
        'view_world_mat': np.stack([camera.world_mat for camera in cameras]),
        'view_camera_mat': np.stack([camera.camera_mat for camera in cameras]),
    }
    rgb = np.where(depth[..., None] > 0, RANDOM.random((*depth.shape, 3)), 1)
    return jax.tree.map(np.float32, inputs), np.float32(rgb)


def to_px(camera, size):
    """For pictures of `size` px."""
    device = to_normalised(camera)
    return device._replace(camera_mat=np.diag([size / 2, size / 2, 1]) @ (device.camera_mat + CENTRE))


CENTRE = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])  # normalised device coordinates begin at -1


def make_network(kind, size=S, **keywords):
    """A model with weights none of which are zero, and its inputs."""
    model, (inputs, rgb) = texture_field.make_model(**KINDS[kind], **WIDTHS, **keywords), make_inputs(size)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs, rgb)
    return model, draw_weights(shapes), inputs, rgb


@pytest.mark.parametrize(
    'kind', [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ('conditional', 'vae', 'nvs')), 'gan']
)
def test_every_weight_learns(kind):
    model, params, inputs, rgb = make_network(kind, 32 if kind == 'nvs' else S)
    losses = [model.loss, model.discriminator_loss] if kind == 'gan' else [model.loss]

    @jax.jit
    def differentiate(params):
        return [jax.grad(lambda params, f=f: f(params, inputs, rgb, jax.random.key(0))[0])(params) for f in losses]

    found = differentiate(params)
    largest = jax.tree.map(lambda *grads: max(float(jnp.abs(grad).max()) for grad in grads), *found)
    still = [jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(largest) if x == 0]
    assert not still
    if kind == 'gan':
        assert not any(np.asarray(x).any() for x in jax.tree.leaves(found[1]['params']['decoder'])), 'the other network'


@pytest.fixture(scope='module')
def conditional():
    """A model, its weights, its inputs, the true pictures, and its codes of the inputs."""
    model, params, inputs, rgb = make_network('conditional')
    codes = model.encode_geometry(params, inputs['oriented_cloud']), model.encode(params, inputs['image'])
    return model, params, inputs, rgb, codes


@pytest.mark.slow
def test_colours_of_many_points_are_those_of_few_and_of_one_shape(conditional):
    model, params, _, _, (geometry, cond) = conditional
    points = np.float32(RANDOM.uniform(-0.5, 0.5, (B, DECODED_POINTS + 5, 3)))
    colours = np.asarray(model.color(params, points, geometry, cond))
    assert colours.min() > 0
    assert colours.max() < 1
    assert colours.std(axis=1).min() > 1e-3
    for b in range(B):
        field = model.bind(params, geometry[b : b + 1], cond[b : b + 1])
        np.testing.assert_allclose(jax.jit(field)(points[b, -7:]), colours[b, -7:], atol=1e-6)
    slope = jax.grad(lambda x: model.color(params, x, geometry, cond).sum())(points[:, :4])
    assert np.abs(slope).min(axis=(1, 2)).max() > 0


def test_a_pixel_has_the_colour_of_the_point_that_it_shows(conditional):
    model, params, inputs, _, (geometry, cond) = conditional
    views = [inputs[name] for name in texture_field.VIEWS]
    rgb = np.asarray(model.render(params, *views, geometry, cond))
    depth, *camera = views
    points = unproject_depth(Camera(*camera), depth)
    colours = model.color(params, np.float32(points).reshape(B, -1, 3), geometry, cond).reshape(rgb.shape)
    shown = depth > 0
    np.testing.assert_allclose(rgb[shown], np.asarray(colours)[shown], atol=1e-5)
    assert (rgb[~shown] == 1).all()


@pytest.mark.slow
def test_some_pixels_estimate_the_loss_on_all(conditional):
    """Without bias, and not by those of the background; a view without an object adds nothing."""
    model, params, inputs, rgb, _ = conditional
    inputs = {**inputs, 'view_depth': inputs['view_depth'].copy()}
    inputs['view_depth'][0], rgb = 0, rgb.copy()
    rgb[0] = 1
    sampled = texture_field.make_model(**KINDS['conditional'], **WIDTHS, num_pixels=16)
    whole, _ = model.loss(params, inputs, rgb)
    keys = jax.random.split(jax.random.key(0), 300)
    some = jax.jit(jax.vmap(lambda key: sampled.loss(params, inputs, rgb, key)[0]))(keys)
    assert abs(some.mean() - whole) < 4 * some.std() / 300**0.5
    assert some.std() > 0
    depth = inputs['view_depth'][1].ravel()
    drawn = texture_field.draw_pixels(jax.random.key(0), depth, 2000)
    assert set(np.asarray(drawn)) == set(np.flatnonzero(depth))


def small_config(variant):
    config = make_config(f'tiny,{variant}')
    with config.unlocked():
        config.model.update({key: width for key, width in WIDTHS.items() if key in config.model})
        size = 32 if variant == 'nvs' else 8
        config.data.update(view_size=size, num_surface_points=P)
        if config.model.num_pixels:
            config.model.num_pixels = 16
        config.optim.update(name='rmsprop', learning_rate=1e-3, schedule='constant', warmup_steps=0)
        config.train.update(num_steps=4, batch_size=4, log_every_steps=1, eval_every_steps=2, checkpoint_every_steps=2)
        config.eval.batch_size = 3
    return config


@pytest.mark.parametrize('variant', ['', 'vae', 'gan', pytest.param('nvs', marks=pytest.mark.slow)])
def test_predictions_are_pictures_of_the_views(variant):
    config = small_config(variant)
    method, params = untrained(config)
    inputs, rgb = make_inputs(config.data.view_size)
    inputs = {name: inputs[name] for name in (*texture_field.VIEWS, *config.data.inputs) if name in inputs}
    pictures = method.predict(params, inputs, jax.random.key(0))
    assert [type(views) for views in pictures] == [Pictures] * B
    assert pictures[0].rgb.shape == rgb.shape[1:]
    l1 = method.metrics(params, {'inputs': inputs, 'targets': {'rgb': rgb}})['l1']
    if variant != 'vae':  # it is validated with the mean of its posterior
        np.testing.assert_allclose(
            l1, [np.abs(p.rgb - t).mean() for p, t in zip(pictures, rgb, strict=True)], rtol=1e-5
        )
    if variant in ('vae', 'gan'):
        with config.unlocked():
            config.eval.sample = True
        sampled = models.build(config).predict(params, inputs, jax.random.key(0))
        assert not np.allclose(sampled[0].rgb, pictures[0].rgb)


def test_a_posterior_has_a_standard_deviation():
    model, params, inputs, rgb = make_network('vae')
    geometry = model.encode_geometry(params, inputs['oriented_cloud'])
    mean, std = model.posterior(params, rgb[:, 0], geometry)
    assert mean.shape == std.shape == (B, model.latent_size)
    assert np.asarray(std).min() > 0
    assert model.prior(jax.random.key(0), jnp.arange(B)).shape == mean.shape


def test_what_does_not_go_together_is_named():
    with pytest.raises(InputError, match=r"expected one of encoder, vae_encoder and .*found \['vae_encoder', 'discrim"):
        texture_field.make_model(**{**KINDS['vae'], 'discriminator': 'resnet_conditional'})
    with pytest.raises(InputError, match=r"decoder 'unet' alone, found .* geometry_encoder 'resnet'"):
        texture_field.make_model(**{**KINDS['nvs'], 'geometry_encoder': 'resnet'})
    with pytest.raises(InputError, match=r'config.model.num_pixels: expected 0 .* whole pictures, found 4'):
        texture_field.make_model(**KINDS['gan'], num_pixels=4)
    with pytest.raises(InputError, match=r'expected a key for the latent codes or the pixels, found None'):
        texture_field.make_model(**KINDS['vae']).loss({}, {}, np.zeros((1, 1, 8, 8, 3)))
    with pytest.raises(InputError, match=r'expected pictures of 4, 8, 16, .* found the shape \[3, 12, 12, 4\]'):
        make_network('vae', size=12)
    inputs, rgb = make_inputs()
    model = texture_field.make_model(**KINDS['gan'], **WIDTHS)
    params = draw_weights(jax.eval_shape(model.init, jax.random.key(0), inputs, rgb))
    with pytest.raises(
        InputError, match=r'encode: expected a network with an encoder in config.model, found one without'
    ):
        model.encode(params, inputs['image'])
    config = make_config('tiny,nvs')
    with config.unlocked():
        config.data.update(inputs=('image', 'oriented_cloud', 'depth_views'), num_surface_points=P)
    with pytest.raises(InputError, match=r"config.data.inputs: expected \('image', 'depth_views'\), "):
        models.build(config)


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    return write_numbered_shapes(tmp_path_factory.mktemp('data'))


@pytest.mark.parametrize('variant', ['vae', 'nvs'])  # the others are the network of a GAN
@pytest.mark.slow
def test_a_network_is_trained(variant, numbered, tmp_path):
    state = loop.train(small_config(variant), tmp_path, numbered)
    assert int(state.step) == 4
    assert len(read_log(tmp_path, 'val/l1')) == 2
    assert load_run(tmp_path).metrics['l1'] > 0


@pytest.mark.slow
def test_an_interrupted_run_of_a_gan_ends_bit_for_bit_as_one_that_was_not_and_stops_where_it_diverges(
    numbered, tmp_path
):
    """Both networks, their optimisers and their average; two steps, and two more."""
    config = small_config('gan')
    with config.unlocked():
        config.optim.ema_decay = 0.5
    whole = loop.train(config, tmp_path / 'whole', numbered)
    with config.unlocked():
        config.train.num_steps = 2
    loop.train(config, tmp_path / 'cut', numbered)
    with config.unlocked():
        config.train.num_steps = 4
    resumed = loop.train(config, tmp_path / 'cut', numbered)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    for name in ('train/loss', 'train/discriminator', 'train/penalty', 'val/l1'):
        assert read_log(tmp_path / 'whole', name) == read_log(tmp_path / 'cut', name)
        assert len(read_log(tmp_path / 'cut', name)) in (2, 4)
    with config.unlocked():
        config.train.num_steps, config.optim.learning_rate = 8, 1e30
    with pytest.raises(FloatingPointError, match='not finite; the last good checkpoint is step 4'):
        loop.train(config, tmp_path / 'cut', numbered, accept_changes=True)
    with checkpoints.read_checkpoints(tmp_path / 'cut') as checkpointer:
        assert checkpointer.latest.step == 4
