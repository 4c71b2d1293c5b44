"""One file for each paper; `build` finds the one that a config names."""

from ml_collections import ConfigDict

from onet_jax.models import onet
from onet_jax.models.method import Aux, Method

METHODS = {'onet': onet.method}


def build(config: ConfigDict) -> Method:
    """The method that `config.model.name` names, with its widths and thresholds taken from the config."""
    if config.model.name not in METHODS:
        raise ValueError(f'config.model.name: expected one of {sorted(METHODS)}, found {config.model.name!r}')
    return METHODS[config.model.name](config)


__all__ = ['METHODS', 'Aux', 'Method', 'build']
