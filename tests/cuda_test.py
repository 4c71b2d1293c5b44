"""Every function of a network is a program for CUDA too: it lowers on any machine, and no program calls the host."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export
from model_configs import small_config

from onet_jax import models
from onet_jax.configs import load_config
from onet_jax.convert.exported import find_functions
from onet_jax.data import fields
from onet_jax.geometry.batched_extraction import marching_cubes, multiresolution_grids
from onet_jax.geometry.volume_rendering import Rays
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

CONFIGS = (
    'onet_image', 'onet_voxels', 'onet_unconditional', 'conv_onet', 'conv_onet_crops', 'occupancy_flow', 'onet4d', 'psgn4d',
    'psgn', 'r2n2', 'pixel2mesh', 'atlasnet', 'dmc', 'texture_field', 'nerf',
)  # fmt: skip


def check_lowers(function, *arguments, **settings):
    """The function lowers for CUDA, and does not call the host, which `jax.export` refuses too."""
    program = export.export(jax.jit(partial(function, **settings)), platforms=['cuda'])(*arguments).mlir_module()
    assert 'callback' not in program


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def check_network_lowers(config):
    """The training step with the draws of its batch, and the functions that can be exported."""
    method, tx, key = models.build(config), make_optimizer(config, 1000), jax.random.key(0)
    raw = fields.describe_rows(fields.find_need(config.data), 1)
    transform = fields.make_transform(config.data)
    batch = jax.eval_shape(transform, key, raw)
    state = jax.eval_shape(lambda key, batch: create_state(key, method, tx, batch), key, batch)
    check_lowers((method.make_step or make_train_step)(method, tx, transform, None, 0.0), state, raw, key)
    params = state.variables
    for exportable in find_functions(method, params, config.data).values():
        check_lowers(exportable.function, params, *exportable.arguments.values())
    return method.model, params, batch


def test_a_network_and_the_extraction_of_its_meshes_lower_for_cuda():
    model, params, _ = check_network_lowers(small_config())
    cond = floats(2, 12)

    def grids(params, conds):
        bound = jax.vmap(lambda cond: model.bind(params, cond[None]))(conds)
        return multiresolution_grids(bound, 2, resolution=4, upsampling_steps=1, level=0.0).values

    check_lowers(grids, params, cond)
    check_lowers(marching_cubes, floats(11**3), level=0.0, capacity=512)


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_method_lowers_for_cuda(name):
    model, params, batch = check_network_lowers(load_config(f'{name}:tiny'))
    if name == 'texture_field':
        cond = jax.eval_shape(model.encode, params, batch['inputs']['image'])
        geometry = jax.eval_shape(model.encode_geometry, params, batch['inputs']['oriented_cloud'])
        check_lowers(model.color, params, floats(1, 100, 3), geometry, cond)
        views = floats(1, 2, 16, 16), floats(1, 2, 3, 4), floats(1, 2, 3, 3)
        check_lowers(model.render, params, *views, geometry, cond)
    if name == 'nerf':
        check_lowers(model.render_jitted, params, Rays(*(floats(64, 3),) * 3, *(floats(64),) * 2))
