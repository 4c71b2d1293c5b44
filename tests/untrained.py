"""Networks that nobody trained, for the tests of models, evaluation and inference."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.fields import example_batch
from onet_jax.training import checkpoints
from onet_jax.training.state import TrainState


def untrained(config: ConfigDict, seed: int = 0) -> tuple[models.Method, dict]:
    """The method of a config, and random weights: initial ones, of which some are zero, would hide mistakes."""
    method = models.build(config)
    return method, draw_weights(jax.eval_shape(method.init, jax.random.key(0), example_batch(config.data)), seed)


def untrained_workdir(config: ConfigDict, folder: Path, data_dir: Path, seed: int = 0) -> Path:
    """A workdir as training on a dataset leaves it, but for the weights, which are those of `untrained`."""
    _, variables = untrained(config, seed)
    checkpoints.claim_workdir(folder, config, data_dir)
    with checkpoints.open_checkpoints(folder) as checkpointer:
        checkpointer.save(1, jax.tree.map(jax.numpy.asarray, TrainState(1, variables, ())))
    return folder


def draw_weights(shapes: dict, seed: int = 0) -> dict:
    """Random variables of the given shapes (those of `jax.eval_shape(module.init, ...)`); nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(path, array):
        fan_in = array.size / array.shape[-1]
        noise = 0.6 * rng.normal(size=array.shape) / np.sqrt(fan_in)
        middle = {'scale': 1.0, 'running_var': 2.0}.get(path[-1].key, 0.0)
        return np.float32(np.abs(noise + middle) if middle else noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)
