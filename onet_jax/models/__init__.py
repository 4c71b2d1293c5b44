"""One file for each paper: `ENCODERS`, by the names that a config may give them, and `build_module`.

What they share is in `occupancy.py`; here the paper is found that `config.model.name` names.
"""

from types import ModuleType

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.models import conv_onet, occupancy, onet
from onet_jax.models.method import Aux, Method

DTYPES = ('float32', 'bfloat16')  # in which a training step may compute
PAPERS = {'onet': onet, 'conv_onet': conv_onet}
# Shape and type of a small input of each kind.
EXAMPLES = {
    'none': ((0,), np.float32),
    'points': ((2, 3), np.float32),
    'image': ((64, 64, 3), np.float32),
    'voxels': ((32, 32, 32), np.float32),
    'index': ((), np.int32),
}


def build(config: ConfigDict) -> Method:
    """The method that `config.model.name` names, with its widths and thresholds taken from the config."""
    paper, dtype = _find_paper(config.model), config.train.get('dtype', 'float32')
    if dtype not in DTYPES:
        raise InputError(f'config.train.dtype: expected one of {DTYPES}, found {dtype!r}')
    module, trained = (
        paper.build_module(config.model, kind) for kind in (None, jnp.bfloat16 if dtype == 'bfloat16' else None)
    )
    return occupancy.method(config, module, trained, paper.ENCODERS[config.model.encoder].input)


def occupancy_network(config: ConfigDict) -> occupancy.OccupancyNetwork:
    """The functions of the network that `config.model` describes."""
    return occupancy.occupancy_network(_find_paper(config).build_module(config))


def example_batch(config: ConfigDict) -> dict:
    """A batch of one empty example for the network of `config.model`: enough for `init`."""
    shape, dtype = EXAMPLES[_find_paper(config).ENCODERS[config.encoder].input]
    return {'points': np.zeros((1, 2, 3), np.float32), 'inputs': np.zeros((1, *shape), dtype)}


def _find_paper(config: ConfigDict) -> ModuleType:
    if config.name not in PAPERS:
        raise InputError(f'config.model.name: expected one of {sorted(PAPERS)}, found {config.name!r}')
    return PAPERS[config.name]


__all__ = ['Aux', 'Method', 'build', 'example_batch', 'occupancy_network']
