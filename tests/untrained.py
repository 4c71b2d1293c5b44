"""Networks that nobody trained, for the tests of evaluation and inference."""

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.fields import example_batch


def untrained(config: ConfigDict, seed: int = 0) -> tuple[models.Method, dict]:
    """The method of a config, and weights of which none is the initial one: zeros would hide mistakes."""
    method, rng = models.build(config), np.random.default_rng(seed)
    batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), example_batch(config.data))
    variables = method.init(jax.random.key(0), batch)
    moved = jax.tree.map(
        lambda x: x + 0.5 * rng.normal(size=x.shape) / np.sqrt(x.size / x.shape[-1]), variables['params']
    )
    return method, {**variables, 'params': moved}
