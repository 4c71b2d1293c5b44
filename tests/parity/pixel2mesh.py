"""Pixel2Mesh beside the official one: layers, the network on an icosphere and on the official ellipsoid, two steps of Adam."""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.configs import pixel2mesh
from onet_jax.convert import official
from onet_jax.convert.names import layouts_of
from onet_jax.geometry.cameras import Camera, object_camera, to_normalised
from onet_jax.models import Method
from onet_jax.models import pixel2mesh as paper
from onet_jax.models.method import Aux
from onet_jax.networks.graph import (
    DeformationNetwork,
    GraphConvolution,
    Template,
    find_edges,
    make_ellipsoid,
    make_level,
    sample_maps,
    unpool,
)
from onet_jax.networks.layers import Conv
from parity.deviation import Deviations, compare, compare_by_name
from parity.golden import parameters, read_golden, under
from parity.steps import gradients, two_steps


def layer_deviations(data: dict, dtype) -> Deviations:
    """conv/pixel2mesh/layers: graph convolution, unpooling, projection and pooling."""
    out = 'out64' if dtype == np.float64 else 'out'
    support = data['in/gc/support_dense']
    level = make_level(np.argwhere(np.triu(support, 1)), len(support))
    x, weights = jnp.asarray(data['in/gc/x'], dtype), {k: jnp.asarray(v.T, dtype) for k, v in parameters(data).items()}
    own = {'kernel': weights['gc.lin.weight'], 'bias': weights['gc.lin.bias']}
    params = {'params': {'lin': own, 'lin2': {'kernel': weights['gc.lin2.weight']}}}
    pairs = data['in/unpool/pairs']
    maps = [jnp.moveaxis(jnp.asarray(data[f'in/proj/fm{i}'], dtype), 1, -1) for i in range(3)]
    points, device = jnp.asarray(data['in/proj/x'], dtype), jnp.asarray(data['in/proj/K'], dtype)
    # The file has the camera of normalised device coordinates.
    to_px = np.array([[68.5, 0, 68.5], [0, 68.5, 68.5], [0, 0, 1]])
    pooled = sample_maps(maps, to_px @ device, points)
    return {
        'support': compare((level.diagonal, support[0, 0])),
        'convolution': compare((GraphConvolution(own['bias'].size).apply(params, level, x), data['out/gc/y'])),
        'unpooling': compare(
            (unpool(make_level(pairs, pairs.max() + 1), jnp.asarray(data['in/unpool/x'])), data['out/unpool/y'])
        ),
        'outputs': compare((jnp.concatenate([points, *pooled], axis=-1), data[f'{out}/proj/y'])),
    }


class StandIn(nn.Module):
    """The encoder of the small files: average pooling, and a convolution of 1 x 1, at four scales."""

    @nn.compact
    def __call__(self, images):
        return StandInLayers(name='c')(images)


class StandInLayers(nn.Module):
    @nn.compact
    def __call__(self, images):
        maps = []
        for i, (size, features) in enumerate(((2, 4), (4, 6), (8, 8), (16, 10))):
            batch, height, width, channels = images.shape
            blocks = images.reshape(batch, height // size, size, width // size, size, channels)
            maps.append(Conv(features, 1, name=str(i))(blocks.mean(axis=(2, 4))))
        return tuple(maps)


@lru_cache
def icosphere() -> Template:
    """The template of the small files."""
    data = read_golden('conv/pixel2mesh/tiny_adjusted.npz')
    stored = under(data, 'in/ellipsoid/')
    edges = stored['pairs1'], stored['pairs2'], find_edges(stored['faces3'].astype(int))
    levels = tuple(make_level(ends, num) for ends, num in zip(edges, (12, 42, 162), strict=True))
    return rounded(Template(data['out/before1'][0], levels, stored['faces3']))


def rounded(template: Template) -> Template:
    """With scaled Laplacians as the official code has them, in float32, also in the float64 run."""
    levels = (
        level._replace(support=np.float32(level.support).astype(float), diagonal=float(np.float32(level.diagonal)))
        for level in template.levels
    )
    return template._replace(levels=tuple(levels))


@lru_cache
def official_ellipsoid() -> Template:
    """The template with the vertices as the official code rounds them."""
    vertices = read_golden('conv/pixel2mesh/full_official_ellipsoid.npz')['out/before1'][0]
    return rounded(make_ellipsoid()._replace(vertices=vertices))


def make_module(template, dtype) -> paper.PixelToMesh:
    """The network of the small files."""
    return paper.PixelToMesh(StandIn(), DeformationNetwork(16, template, dtype))


def make_full_module(template, dtype) -> paper.PixelToMesh:
    return paper.build_module(16, 192, template, dtype)


def method_of(model: paper.MeshNetwork) -> Method:
    """As `build` makes it, for any template."""

    def arrays(batch):
        inputs, targets = batch['inputs'], batch['targets']
        return targets['surface'], targets['normals'], inputs['image'], inputs['world_mat'], inputs['camera_mat']

    def loss(variables, batch, key, axis_name):
        value, aux = model.loss(variables, *arrays(batch), axis_name)
        return value, Aux(aux.mutated, {})

    return Method(None, loss, None, None, model)


def read_batch(data: dict, number: int, dtype) -> dict:
    """A batch as training has it; the file has cameras of the frame of ShapeNet."""
    stored = under(data, f'in/batch{number}/')
    camera = Camera(*(np.asarray(stored[f'inputs.{name}'], np.float64) for name in Camera._fields))
    camera = object_camera(camera, stored['pointcloud.loc'], stored['pointcloud.scale'])
    inputs = {'image': np.moveaxis(stored['inputs'], 1, -1), **camera._asdict()}
    targets = {'surface': stored['pointcloud'], 'normals': stored['pointcloud.normals']}
    batch = {'inputs': inputs, 'targets': targets}
    return {**jax.tree.map(lambda x: jnp.asarray(x, dtype), batch), 'row': jnp.arange(len(stored['inputs']))}


def model_deviations(name: str, data: dict, dtype) -> Deviations:
    """conv/pixel2mesh/*: vertices, terms of the loss, validation, gradients, Adam."""
    if name == 'layers':
        return layer_deviations(data, dtype)
    is_full, out = name.startswith('full'), 'out64' if dtype == np.float64 else 'out'
    state = parameters(data if is_full else read_golden('conv/pixel2mesh/tiny_adjusted.npz'))
    template, make = (official_ellipsoid, make_full_module) if is_full else (icosphere, make_module)
    config, model = pixel2mesh(), paper.functions_of(make, template)
    batch = read_batch(data, 0, dtype)
    images, world_mat, camera_mat = (batch['inputs'][name] for name in ('image', 'world_mat', 'camera_mat'))
    shapes, layouts = (
        jax.eval_shape(model.init, jax.random.key(0), images, world_mat, camera_mat),
        layouts_of(config, False),
    )
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), official.read_weights(state, shapes, layouts))
    maps = model.encode(params, images)
    after, before = model.deform(params, maps, camera_mat)
    surface, normals = (
        paper.to_camera(world_mat, batch['targets']['surface']),
        paper.rotate(world_mat, batch['targets']['normals']),
    )
    terms = jax.jit(lambda *arrays: paper.measure(template(), *arrays))(after, before, surface, normals)
    unit = 1.0 if 'unadjusted' in name else paper.UNIT
    loss = sum(paper.weigh(terms, unit).values()).mean()
    last = {name: term[-1].mean() for name, term in terms._asdict().items()}
    step = under(data, f'{out}/eval_step/')
    meshes = [paper.make_mesh(*pair, template().faces) for pair in zip(after[-1], world_mat, strict=True)]
    found = {
        'outputs': compare(
            *((after[i], data[f'{out}/pred{i + 1}']) for i in range(3)),
            (world_mat, data[f'{out}/Rt']),
            (to_normalised(Camera(world_mat, camera_mat)).camera_mat, data[f'{out}/K']),
            (surface, data[f'{out}/gt_camera']),
            (normals, data[f'{out}/normals_camera']),
        ),
        'start of each block': compare(*((before[i], data[f'out/before{i + 1}']) for i in range(3))),
        'outputs, vertices of the mesh': compare(
            (np.stack([mesh.vertices for mesh in meshes]), data[f'{out}/vertices_object_frame'])
        ),
        'terms': compare(
            *(pair for i in range(3) for pair in _pairs(terms, i, under(data, f'{out}/terms/block{i + 1}/')))
        ),
        'loss': compare((loss, data[f'{out}/train/loss'])),
        'validation step': compare(
            (loss, step['loss']),
            (last['to_vertices'] + last['to_samples'], step['chamfer']),
            *((last[name], step[name]) for name in ('edge', 'normal', 'laplace', 'move')),
        ),
    }
    if is_full:
        found['feature maps'] = compare(*(_map_pair(data, i, values) for i, values in enumerate(maps)))
    if 'unadjusted' in name:
        return found
    method = method_of(model)
    if 'out64/adam/losses' in data:
        found |= two_steps(method, params, config, data, (batch, read_batch(data, 1, dtype)), dtype)
    else:
        grads = jax.jit(jax.grad(lambda params: method.loss(params, batch, None, None)[0]))(params)
        found |= gradients(official.write_weights(grads, layouts), data, 'train/')
    return {**found, 'round trip': compare_by_name(official.write_weights(params, layouts), state)}


def _pairs(terms: paper.Terms, block: int, expected: dict) -> list[tuple]:
    means = {name: getattr(terms, name)[block].mean() for name in ('edge', 'normal', 'laplace', 'move')}
    return [
        (terms.to_vertices[block], expected['chamfer_gt_to_pred']),
        (terms.to_samples[block], expected['chamfer_pred_to_gt']),
        *((means[name], expected[name]) for name in means),
    ]


def _map_pair(data: dict, number: int, values: jax.Array) -> tuple:
    """What the file has of a feature map, every few values of it with channels first."""
    expected = under(data, f'out/feature_map{number}/')
    return np.moveaxis(np.asarray(values), -1, 1).ravel()[:: int(expected['stride'])], expected['sub']
