"""Deep Marching Cubes beside the official one: tables, operators with their gradients, the network, the mesh."""

from functools import partial
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.configs import dmc as config_of
from onet_jax.convert import official
from onet_jax.convert.names import layouts_of
from onet_jax.geometry import dmc
from onet_jax.networks.scatter import pool_max
from parity.deviation import ZERO_GRADIENT, Deviations, compare, compare_by_name
from parity.golden import parameters, under
from parity.settings import load_weights
from parity.steps import last_gradients, start_training

N = 8  # cells along an axis in the files


def table_deviations(name: str, data: dict, dtype) -> Deviations:
    """dmc/tables: all of them exact, but for the weights of free space, which are stored in float32."""
    found = {
        'accept48': dmc.CLASSES,
        'accept96': dmc.TOPOLOGIES,
        'vis140': dmc.VISIBLE,
        'triangles220': dmc.TRIANGLES,
        'triangle_class': dmc.TRIANGLE_TOPOLOGIES,
        'full_table': [(np.ravel(dmc.triangles_of(t)).tolist() + [-1] * 16)[:16] for t in range(256)],
        'occupancy_table': np.arange(256)[:, None] >> np.arange(8) & 1,
    }
    weights = [dmc.free_space_weights(33)[:5, :5, :5], dmc.free_space_weights(9)]
    return {
        'tables': compare(*((table, data[f'out/{key}']) for key, table in found.items())),
        'weights': compare((weights[0], data['out/neg_weight_32']), (weights[1], data['out/neg_weight_8'])),
    }


def operator_deviations(name: str, data: dict, dtype) -> Deviations:
    """dmc/ops_8: pooling, probabilities, distances, curvature and smoothness, each with its gradient."""
    out = 'out64' if dtype == np.float64 else 'out'
    wide = 'derived64' if dtype == np.float64 else 'out'
    given = {key: jnp.asarray(array, dtype) for key, array in under(data, 'in/').items()}
    points, occupancy, offset = given['points'], given['occupancy'], jnp.moveaxis(given['offset'], 0, -1)
    weights = given['q96'].T.reshape(96, N, N, N)

    def pool(features):
        cells = dmc.find_cells(points, N)
        pooled = jax.nn.relu(pool_max(features, cells))
        return jnp.zeros((N**3, features.shape[1]), dtype).at[cells].set(pooled, mode='drop')

    def probabilities(occupancy):
        return dmc.topology_probabilities(occupancy, np.arange(256)).reshape(256, -1).T

    def distances(offset):
        cells, by_class = dmc.cell_distances(points, offset)
        far = jnp.full((N**3, 48), dmc.FAR, dtype).at[:, 47].set(0)
        return far.at[cells].set(by_class.T, mode='drop')

    def bends(offset):
        terms = dmc.curvature_terms(weights, offset)
        return jnp.stack([jnp.pad(x, [(0, N - length) for length in x.shape]).ravel() for x in terms])

    @jax.jit
    def evaluate(features, occupancy, offset):
        values, gradients = {}, {}
        for key, function, argument, cotangent in (
            ('pool', pool, features, given['cotangent_pool']),
            ('topo', probabilities, occupancy, given['cotangent_topology']),
            ('dist', distances, offset, given['cotangent_distance']),
            ('curv', bends, offset, jnp.ones((4, N**3), dtype)),
            ('conn', dmc.smoothness, occupancy, jnp.asarray(N**3, dtype)),
        ):
            values[key], pull = jax.vjp(function, argument)
            (gradients[key],) = pull(cotangent)
        return values, gradients

    values, gradients = evaluate(given['features'], occupancy, offset)
    some = {'out': values['topo'][:64], 'derived64': values['topo'][::4]}[wide]
    kinds = ('x', 'y', 'z', 'inner')
    of_cells = [(values['curv'][i], data[f'{out}/curv/loss_per_cell_{kind}']) for i, kind in enumerate(kinds)]
    numbers = [(values['curv'].sum(), data[f'{out}/curv/loss']), (values['conn'] * N**3, data[f'{out}/conn/loss'])]
    first = jnp.moveaxis
    return {
        'outputs, pooling': compare((values['pool'], data[f'{out}/pool/cells'])),
        # In float64 stored in float32.
        'probabilities': compare(
            (some, data['out/topo/topology_first64cells' if wide == 'out' else 'derived64/topo/topology'])
        ),
        'distances': compare((values['dist'], data[f'{out}/dist/distances'])),
        'outputs, curvature': compare(*of_cells),
        'loss, curvature and smoothness': compare(*numbers),
        'input gradients': compare(
            (gradients['pool'], data[f'{out}/pool/grad_feat']),
            (gradients['topo'], data[f'{out}/topo/grad_occ']),
            (first(gradients['dist'], -1, 0), data[f'{out}/dist/grad_offset']),
            (first(gradients['curv'], -1, 0), data[f'{out}/curv/grad_offset']),
            (gradients['conn'], data[f'{out}/conn/grad_occ']),
        ),
    }


def make_config(state: dict) -> ConfigDict:
    """Of the network of dmc/net_8, from the shapes of its weights."""
    config = config_of()
    with config.unlocked():
        config.model.update(grid_resolution=N, encoder_hidden_size=len(state['encoder.conv1.0.bias']))
    return config


def network_deviations(name: str, data: dict, dtype) -> Deviations:
    """dmc/net_8: the network in both modes, its loss, gradients and statistics, the meshes, the conversion of its weights.

    In float64 too, two constants of the official loss are float32.
    """
    exact = dmc.free_space_weights
    with (
        patch.object(dmc, 'FAR', float(np.float32(dmc.FAR))),
        patch.object(dmc, 'free_space_weights', lambda num_points: exact(num_points).astype(np.float32)),
    ):
        return compare_networks(data, dtype)


def compare_networks(data: dict, dtype) -> Deviations:
    out, state = 'out64' if dtype == np.float64 else 'out', parameters(data)
    config = make_config(state)
    method, params = load_weights(state, config, dtype)
    cloud, surface = (jnp.asarray(data[f'in/{key}'], dtype) for key in ('inputs', 'pointcloud'))
    batch = {'inputs': {'cloud': cloud}, 'targets': {'surface': surface}, 'row': jnp.arange(2)}
    expected = under(data, f'{out}/eval/')

    features = method.model.encode(params, cloud)
    occupancy, offset = method.model.surface(params, features)
    terms = np.stack(method.model.terms(occupancy, offset, surface), axis=1)
    training, step = start_training(method, params)
    training, scalars = step(training, batch, jax.random.key(0))
    layouts = layouts_of(config, False)
    found = official.write_weights({'params': last_gradients(training)}, layouts)
    norms = {key: np.linalg.norm(gradient) for key, gradient in found.items()}
    zero = {key for key, norm in under(data, 'out64/train/gradnorm/').items() if norm < ZERO_GRADIENT}
    statistics = official.write_weights(training.variables, layouts)
    components = data[f'{out}/train/loss_components'].mean(axis=0)
    of_outputs = jax.jit(jax.grad(lambda *outputs: sum(method.model.terms(*outputs, surface)).mean(), argnums=(0, 1)))
    train = under(data, f'{out}/train/')
    outputs = jnp.asarray(train['occupancy'][:, 0], dtype), jnp.moveaxis(jnp.asarray(train['offset'], dtype), 1, -1)
    by_occupancy, by_offset = of_outputs(*outputs)
    return {
        # In float64 stored in float32.
        'features of cells': compare((channels_second(features), expected['encoder_feat'])),
        'outputs': compare((occupancy[:, None], expected['occupancy']), (channels_second(offset), expected['offset'])),
        'loss, its terms': compare((terms, expected['loss_components'])),
        'loss, its terms in training': compare(
            (np.stack([scalars[f'loss_{key}'] for key in dmc.Terms._fields]), components),
            (scalars['loss'], train['loss']),
        ),
        'input gradients, of the outputs': compare(
            (by_occupancy[:, None], train['grad_occupancy']), (channels_second(by_offset), train['grad_offset'])
        ),
        'gradients': compare_by_name(found, under(data, f'{out}/train/grad/'), zero),
        'norms of gradients': compare_by_name(norms, under(data, f'{out}/train/gradnorm/'), zero),
        'statistics': compare_by_name(statistics, under(data, 'out/train/buffers/')),
        'vertices': compare(*mesh_pairs(data)),
        'round trip': compare_by_name(official.to_state_dict(params, config), state),
    }


channels_second = partial(jnp.moveaxis, source=-1, destination=1)


def mesh_pairs(data: dict):
    """(found, official) corners of triangles of two meshes; the official ones face inwards and share no vertices."""
    shapes = {
        'net': (data['out/eval/occupancy'][0, 0], data['out/eval/offset'][0]),
        'sphere': (data['in/sphere_occupancy'], data['in/sphere_offset']),
    }
    for key, (occupancy, offset) in shapes.items():
        mesh = dmc.extract_mesh(occupancy, np.moveaxis(offset, 0, -1))
        yield mesh.vertices[mesh.faces[:, ::-1]].reshape(-1, 3), data[f'out/mesh_{key}/vertices']
