"""Methods without a network, for the tests of reconstruction: what they predict is given; a config."""

import trimesh
from model_configs import small_config

from onet_jax.models.method import Method


def predicting(predict):
    """A method that predicts so."""
    return Method(None, None, None, lambda params, inputs, key, workspace=None: predict(inputs), None)


def hull_method(seen=None):
    """A method whose prediction is the convex hull of its input."""

    def predict(inputs):
        if seen is not None:
            seen.append(inputs['cloud'])
        return [trimesh.PointCloud(cloud).convex_hull for cloud in inputs['cloud']]

    return predicting(predict)


def one_by_one():
    """A config of which inputs are predicted one at a time."""
    config = small_config()
    with config.unlocked():
        config.eval.batch_size = 1
    return config
