"""Networks that nobody trained, for the tests of models, evaluation and inference."""

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.fields import example_batch


def untrained(config: ConfigDict, seed: int = 0) -> tuple[models.Method, dict]:
    """The method of a config, and random weights: initial ones, of which some are zero, would hide mistakes.

    They are drawn, not initialised: nothing is compiled.
    """
    method, rng = models.build(config), np.random.default_rng(seed)
    shapes = jax.eval_shape(method.init, jax.random.key(0), example_batch(config.data))

    def draw(path, array):
        fan_in = array.size / array.shape[-1]
        noise = 0.6 * rng.normal(size=array.shape) / np.sqrt(fan_in)
        middle = {'scale': 1.0, 'running_var': 2.0}.get(path[-1].key, 0.0)
        return np.float32(np.abs(noise + middle) if middle else noise)

    return method, jax.tree_util.tree_map_with_path(draw, shapes)
