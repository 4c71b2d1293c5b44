"""AtlasNet beside the official one: templates, networks in both modes, losses, gradients, meshes, the encoder of pictures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.configs import atlasnet
from onet_jax.convert import official
from onet_jax.convert.names import ATLASNET, ATLASNET_IMAGES, layouts_of
from onet_jax.geometry.meshes import normalise
from onet_jax.models.atlasnet import make_surface
from onet_jax.networks.atlasnet import ImageEncoder, PatchDecoder, make_sphere, make_square
from onet_jax.networks.fast_gradients import reverse_mode
from parity.deviation import ZERO_GRADIENT, Deviations, compare, compare_by_name
from parity.golden import parameters, under
from parity.modules import load_bare
from parity.settings import load_weights


def template_deviations(name: str, data: dict, dtype) -> Deviations:
    """templates: grids and icospheres."""
    found = {f'out/square{side}': make_square(side * side) for side in (2, 4, 10)} | {'out/square_n90': make_square(90)}
    found |= {f'derived/icosphere{level}': make_sphere(10 * 4**level + 2) for level in (0, 1, 4)}
    pairs = []
    for key, template in found.items():
        dimension = template.vertices.shape[1]
        pairs.append((template.vertices, data[f'{key}/vertices'][:, :dimension]))
        if f'{key}/faces' in data:
            pairs.append((template.faces, data[f'{key}/faces']))
    return {'templates': compare(*pairs)}


def make_config(data: dict) -> ConfigDict:
    """Of the autoencoder in a file, from its official settings."""
    settings = json.loads(str(data['meta/cfg']))
    sphere = settings['template_type'] == 'SPHERE'
    config = atlasnet('points,sphere' if sphere else 'points')
    with config.unlocked():
        config.model.update(
            cond_size=settings['bottleneck_size'],
            decoder_hidden_size=settings['hidden_neurons'],
            num_patches=settings['nb_primitives'],
            num_predicted_points=settings['number_points'],
            num_mesh_points=2500 if sphere else settings['number_points_eval'],
        )
    return config


def model_deviations(name: str, data: dict, dtype) -> Deviations:
    """ae_*: codes and points, the loss with its gradients and statistics, the Chamfer distance of validation, a mesh."""
    out, state, config = 'out64' if dtype == np.float64 else 'out', parameters(data), make_config(data)
    method, params = load_weights(state, config, dtype)
    model, layouts, num_patches = method.model, layouts_of(config, False), config.model.num_patches
    clouds, target = (jnp.asarray(data[f'in/{key}'], dtype) for key in ('points', 'target'))
    random = read_draws(data, dtype)
    # The official grids of meshes have as many points as those of training.
    meshed = model.template if config.model.decoder == 'sphere' else make_square(random.shape[1])
    regular, coarse = (
        np.broadcast_to(np.float32(each.vertices), (num_patches, *each.vertices.shape))
        for each in (model.template, meshed)
    )

    @jax.jit
    def evaluate(params):
        cond = model.encode(params, clouds)
        points = model.points(params, cond)
        distance = losses.chamfer_distance(points.reshape(len(points), -1, 3), target).mean()
        return cond, points, distance, *(model.points(params, cond, each) for each in (regular, random, coarse))

    @jax.jit
    def differentiate(params):
        def loss(trainable):
            return model.loss({**params, 'params': trainable}, target, clouds, random)

        return jax.value_and_grad(loss, has_aux=True)(params['params'])

    cond, points, distance, same, at_random, corners = map(np.asarray, evaluate(params))
    np.testing.assert_array_equal(points, same)
    (value, aux), by_weights = differentiate(params)
    found = official.write_weights({'params': by_weights}, layouts)
    zero = {k for k, largest in under(data, 'out64/train/gradmaxabs/').items() if largest < ZERO_GRADIENT}
    largest = {k: np.abs(gradient).max() for k, gradient in found.items()}
    statistics = official.write_weights(aux.mutated, layouts)
    mesh, faces = make_surface(corners[0], meshed), data['out/eval/mesh_faces']
    # A sphere that the map turns inside out has its faces the other way round here.
    inside_out = (np.sort(mesh.faces[0]) == np.sort(faces[0])).all() and (mesh.faces[0] != faces[0]).any()
    np.testing.assert_array_equal(np.fliplr(mesh.faces) if inside_out else mesh.faces, faces)
    regular_points, expected = points.swapaxes(2, 3), data[f'{out}/eval/regular']
    return {
        'condition': compare((cond, data[f'{out}/eval/latent'])),
        'points, regular': compare((regular_points[: len(expected)], expected)),
        'points, random': compare((at_random.swapaxes(2, 3), data[f'{out}/eval/random'])),
        'loss': compare((value, data[f'{out}/train/loss'])),
        # In float64 the file has those of the encoder.
        'gradients': compare_by_name(found, under(data, 'out/train/grad/') | under(data, f'{out}/train/grad/'), zero),
        'largest gradients': compare_by_name(largest, under(data, 'out64/train/gradmaxabs/'), zero),
        'statistics': compare_by_name(statistics, under(data, 'out/train/buffers/')),
        'validation step': compare((distance, data['out/eval/chamfer'])),
        'mesh': compare((mesh.vertices, data['out/eval/mesh_vertices'])),
        'round trip': compare_by_name(official.to_state_dict(params, config, num_batches=7), state),
    }


def read_draws(data: dict, dtype) -> np.ndarray:
    """The random points of a file [K, N, d]; those of a sphere are projected in the precision of a run."""
    draws = np.asarray(data['in/template_draws'], dtype).swapaxes(1, 2)
    return draws / np.linalg.norm(draws, axis=-1, keepdims=True) if draws.shape[-1] == 3 else draws


def decoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """decoder_full_sphere: points of the decoder of full width."""
    out = 'out64' if dtype == np.float64 else 'out'
    template, cond = read_draws(data, dtype), jnp.asarray(data['in/latent'], dtype)
    decoder = load_bare(PatchDecoder(512), ATLASNET, parameters(data), dtype, cond, template)
    points, _ = decoder.run(cond, template)
    return {'points': compare((points.swapaxes(2, 3), data[f'{out}/eval/random']))}


def chamfer_deviations(name: str, data: dict, dtype) -> Deviations:
    """chamfer_fscore: squared distances, the loss and its gradients; the official F-score compares the same distances."""
    out = 'out64' if dtype == np.float64 else 'out'
    sets = jnp.asarray(data['in/a'], dtype), jnp.asarray(data['in/b'], dtype)

    @jax.jit
    def measure(a, b):
        gradients = jax.value_and_grad(lambda *sets: losses.chamfer_distance(*sets).mean(), argnums=(0, 1))(a, b)
        return losses.chamfer(a, b), *gradients

    (to_b, to_a), value, gradients = measure(*sets)
    return {
        'outputs': compare((to_b, data[f'{out}/dist1']), (to_a, data[f'{out}/dist2'])),
        'loss': compare((value, data[f'{out}/loss'])),
        'gradients': compare((gradients[0], data['out/grad_a']), (gradients[1], data['out/grad_b'])),
    }


def normalization_deviations(name: str, data: dict, dtype) -> Deviations:
    """normalization: the official bounding box has the half of its longest edge for a unit, ours the whole."""
    cloud = data['in/points']
    return {'normalised': compare((2 * normalise(cloud).to_object(cloud)[None], data['out/BoundingBox']))}


def encoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """svr_resnet18_formula: codes of pictures in both modes, and statistics."""
    out, state = 'out64' if dtype == np.float64 else 'out', {}
    for number, (key, shape) in enumerate(zip(data['meta/names'], data['meta/shapes'], strict=True)):
        state[str(key)] = draw_weight(
            str(key), number, tuple(map(int, str(shape).strip('()').replace(',', ' ').split()))
        )
    sums = np.array([array.astype(np.float64).sum() for array in state.values()])
    np.testing.assert_allclose(sums, data['out/param_sum'], atol=1e-6)
    images = np.float32(data['in/image_28_uint8']) / 255
    images = jnp.moveaxis(jnp.asarray(images.repeat(8, axis=2).repeat(8, axis=3), dtype), 1, -1)
    with reverse_mode(False):
        encoder = load_bare(ImageEncoder(24), ATLASNET_IMAGES, state, dtype, images)
        evaluated, (trained, updated) = encoder.run(images)[0], encoder.run(images, train=True)
    statistics = encoder.by_name('batch_stats', updated['batch_stats'])
    return {
        'outputs, eval': compare((evaluated, data[f'{out}/eval/y'])),
        'outputs, train': compare((trained, data[f'{out}/train/y'])),
        'statistics': compare_by_name(statistics, under(data, 'out/train/buffers/')),
    }


def draw_weight(name: str, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of a number in the state_dict, a hash of the places in it."""
    h = (np.arange(np.prod(shape), dtype=np.uint64) * 2654435761 + number * 40503 * 65536 + 12345) % 2**32
    h ^= h >> np.uint64(16)
    h = h * 2246822519 % 2**32
    h ^= h >> np.uint64(13)
    u = h / 2**32
    if name.endswith('running_mean') or name.endswith('bias'):
        values = 0.2 * (2 * u - 1)
    elif name.endswith('running_var'):
        values = 0.5 + u
    elif len(shape) == 1:
        values = 0.75 + 0.5 * u
    else:
        values = (2 * u - 1) * np.sqrt(4.5 / np.prod(shape[1:]))
    return values.astype(np.float32).reshape(shape)
