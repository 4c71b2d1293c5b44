"""Official settings, as the YAML files and the golden files have them, to configs of this package: one table of names."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.configs import conv_onet_crops, onet_embedding, onet_image, onet_points, onet_unconditional, onet_voxels
from onet_jax.convert import official

NAMES = {
    'encoder': 'encoder',
    'decoder': 'decoder',
    'c_dim': 'cond_size',
    'z_dim': 'latent_size',
    'encoder_kwargs.hidden_dim': 'encoder_hidden_size',
    'encoder_kwargs.plane_type': 'maps',
    'encoder_kwargs.scatter_type': 'pooling',
    'encoder_kwargs.plane_resolution': 'plane_resolution',
    'encoder_kwargs.grid_resolution': 'grid_resolution',
    'encoder_kwargs.unet_kwargs.depth': 'unet_depth',
    'encoder_kwargs.unet_kwargs.start_filts': 'unet_size',
    'encoder_kwargs.unet3d_kwargs.num_levels': 'unet3d_levels',
    'encoder_kwargs.unet3d_kwargs.f_maps': 'unet3d_size',
    'decoder_kwargs.hidden_size': 'decoder_hidden_size',
    'unit_size': 'unit_size',
    'query_vol_size': 'query_cells',
    'pos_encoding': 'sin_cos',
}
VALUES = {
    'encoder': lambda name: name or 'none',
    'maps': lambda names: (names,) if isinstance(names, str) else tuple(names),
    'sin_cos': lambda name: name == 'sin_cos',
}
# What the official code takes where the settings do not say.
PAPER_DEFAULTS = {'onet': {}, 'conv_onet': {'unet_depth': 0, 'unet3d_levels': 0}}
ENCODER_DEFAULTS = {
    'simple_conv': {'encoder_hidden_size': 32},
    'voxel_simple': {'encoder_hidden_size': 32},
    'pointnet_plus_plus': {'encoder_hidden_size': 64},
    'pointnet_crop_local_pool': {'num_queries': 1024},
}
# By the field that an encoder reads: experiments of such data.
EXPERIMENTS = {
    'cloud': onet_points,
    'scene': conv_onet_crops,
    'image': onet_image,
    'voxels': onet_voxels,
    'index': onet_embedding,
    'none': onet_unconditional,
}


def make_config(paper: str, settings: dict, **model) -> ConfigDict:
    """The config of a network from official settings; paper: a name of models/, model: further keys of `config.model`."""
    found = {NAMES[name]: value for name, value in _flatten(settings) if name in NAMES}
    found = {name: VALUES.get(name, lambda value: value)(value) for name, value in found.items()}
    defaults = PAPER_DEFAULTS[paper] | ENCODER_DEFAULTS.get(found['encoder'], {})
    config = onet_points()
    with config.unlocked():
        config.model = ConfigDict({'name': paper, **defaults, **found, **model})
        reads = import_module(f'onet_jax.models.{paper}').ENCODERS[config.model.encoder].reads
        config.data = EXPERIMENTS[reads]().data
    return config


def _flatten(settings: dict, prefix: str = ''):
    """('group.name', value) of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(value, f'{prefix}{name}.')
        else:
            yield prefix + name, value


def load_weights(state: dict[str, np.ndarray], config: ConfigDict, dtype=np.float32) -> tuple[models.Method, dict]:
    """The method of a config, and the variables that official weights are there."""
    method = models.build(config)
    variables = official.from_state_dict(state, official.variable_shapes(method, config), config)
    return method, jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
