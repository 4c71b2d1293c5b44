"""Models: one file for each paper, with `build(config) -> Method` and `make_model(**keywords)`, its public pure functions.

Shared are `method.py` by all papers, `occupancy.py` by Occupancy Networks, ONet 4D and Convolutional Occupancy Networks,
`encoder_decoder.py` by 3D-R2N2, PSGN, PSGN 4D, AtlasNet and Deep Marching Cubes, and `adversarial.py` by what is trained as a
GAN; `velocity_field.py` belongs to Occupancy Flow. A paper is imported when a config names it.
"""

from importlib import import_module
from pathlib import Path

from ml_collections import ConfigDict

from onet_jax.data.fields import find_fields
from onet_jax.errors import InputError
from onet_jax.models.method import Aux, Method

# Files here that are no paper; every other one is a name of `config.model.name`.
SHARED = ('__init__', 'method', 'occupancy', 'encoder_decoder', 'auto_decoding', 'adversarial', 'velocity_field')
PAPERS = sorted({path.stem for path in Path(__file__).parent.glob('*.py')} - set(SHARED))


def build(config: ConfigDict) -> Method:
    """The method of the paper `config.model.name`. Raises InputError for an unknown one, or values that do not go together."""
    if config.model.name not in PAPERS:
        raise InputError(f'config.model.name: expected one of {PAPERS}, found {config.model.name!r}')
    find_fields(config.data)
    return import_module(f'onet_jax.models.{config.model.name}').build(config)


__all__ = ['PAPERS', 'Aux', 'Method', 'build']
