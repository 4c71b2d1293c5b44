"""One file for each paper: it exports `build(config) -> Method`, and `make_model(**keywords)`, its public pure functions.

What the papers of a family share is in `occupancy.py`; what all share is in `method.py`. A paper is imported when it is asked
for.
"""

from importlib import import_module
from pathlib import Path

from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.models.method import Aux, Method

SHARED = ('__init__', 'method', 'occupancy', 'encoder_decoder', 'auto_decoding')
PAPERS = sorted({path.stem for path in Path(__file__).parent.glob('*.py')} - set(SHARED))


def build(config: ConfigDict) -> Method:
    """The method that `config.model.name` names. Raises InputError for values of the config that do not go together."""
    if config.model.name not in PAPERS:
        raise InputError(f'config.model.name: expected one of {PAPERS}, found {config.model.name!r}')
    return import_module(f'onet_jax.models.{config.model.name}').build(config)


__all__ = ['PAPERS', 'Aux', 'Method', 'build']
