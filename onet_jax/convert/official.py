"""Weights of the official PyTorch implementation to the parameters of this package.

The sub-modules here carry the official names, so a name converts by rule: `decoder.block0.fc_0.weight` is the kernel of
('decoder', 'block0', 'fc_0'). PyTorch stores kernels as [out, in] or, for convolutions of width one, [out, in, 1].
"""

from collections.abc import Mapping

import numpy as np


def from_state_dict(state: Mapping[str, np.ndarray]) -> dict:
    """Official names and arrays -> {'params': ..., 'batch_stats': ...}.

    Raises ValueError for an array that has no place here.
    """
    tree: dict = {'params': {}, 'batch_stats': {}}
    for name, value in state.items():
        *path, leaf = name.split('.')
        if leaf == 'num_batches_tracked':
            continue
        if leaf == 'weight' and value.ndim in (2, 3) and value.shape[2:] in ((), (1,)):
            collection, leaf, value = 'params', 'kernel', value.reshape(value.shape[:2]).T
        elif leaf == 'bias':
            collection = 'params'
        elif leaf in ('running_mean', 'running_var'):
            collection = 'batch_stats'
        else:
            raise ValueError(f'{name}: expected a linear layer or a running statistic, found shape {value.shape}')
        node = tree[collection]
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.asarray(value, np.float32)
    return tree
