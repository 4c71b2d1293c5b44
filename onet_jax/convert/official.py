"""Weights of the official PyTorch implementations to the variables of this package, and back.

Sub-modules here carry the official names, so that a weight converts by rule: ('decoder', 'block0', 'fc_0', 'kernel') is
`decoder.block0.fc_0.weight`. Exceptions are in `names.py`. Both directions walk the tree of variables of the config, so that no
weight can be missing, left over or of another shape. `params` are all variables of a network.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from onet_jax.convert.names import RESNET, Layout, is_legacy, layouts_of
from onet_jax.data.fields import example_batch
from onet_jax.errors import InputError
from onet_jax.models import Method

# Where a file has the weights of a network, and the module that it is here.
NETWORKS = {
    'model': '', 'state_dict': '', 'model_g': '', 'model_d': 'discriminator.',
    'network_fn_state_dict': 'coarse.', 'network_fine_state_dict': 'fine.',
}  # fmt: skip
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}  # others have the same name
ADAM = {'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0, 'amsgrad': False}  # as `optim.make_optimizer` makes it


class Entry(NamedTuple):
    """One weight: its path here, and how the official code stores it."""

    path: tuple[str, ...]  # ('params', 'decoder', 'fc_p', 'kernel')
    name: str  # 'decoder.fc_p.weight'
    shape: tuple[int, ...]  # there
    axes: tuple[int, ...] | None  # official axes = ours in this order; None where they are the same
    copy: int | None  # which of the weights that are stacked here; None where there is one


def split_checkpoint(stored: object) -> tuple[dict[str, np.ndarray], dict]:
    """The content of a file -> the weights by name, and everything else by name ('optimizer', 'it', ...).

    The weights are under 'model' (official), 'state_dict' or 'model_g' (a generator), or are all that the file holds; those of
    the other networks of `NETWORKS` get the name of their module before them. The prefix 'module.' of torch's DataParallel is
    removed. Raises InputError for anything else, and for weights that are not finite.
    """
    if not isinstance(stored, dict):
        return _check_weights(stored), {}
    groups = {key: value for key, value in stored.items() if key in NETWORKS and isinstance(value, dict)}
    if not groups:
        return _check_weights(stored), {}
    weights: dict[str, np.ndarray] = {}
    for key, module in NETWORKS.items():
        # Of several groups without a module the first holds the network.
        if key in groups and (module or not weights):
            weights |= {f'{module}{name}': array for name, array in _check_weights(groups[key]).items()}
    return weights, {name: value for name, value in stored.items() if name not in groups}


def _check_weights(weights: Any) -> dict[str, np.ndarray]:
    """Weights by name, without the prefix of DataParallel. Raises InputError as `split_checkpoint`."""
    if not isinstance(weights, dict) or not weights or not all(isinstance(x, np.ndarray) for x in weights.values()):
        found = sorted(map(str, weights))[:9] if isinstance(weights, dict) else type(weights).__name__
        raise InputError(f"expected weights by name, or a checkpoint with the key 'model', found {found}")
    bad = [name for name, array in weights.items() if not np.isfinite(array.astype(np.float64)).all()]
    if bad:
        raise InputError(f'expected finite weights, found NaN or infinity in {bad[:9]}')
    if all(name.startswith('module.') for name in weights):
        weights = {name.removeprefix('module.'): array for name, array in weights.items()}
    return weights


def from_state_dict(state: Mapping[str, np.ndarray], shapes: dict, config: ConfigDict) -> dict:
    """Official names and arrays -> the variables of the network of a config, whose `variable_shapes` are `shapes`, in float32.

    Both key layouts of conditional batch normalisation are read; a discriminator is left out where the network has none. Raises
    InputError that lists every missing, left over or wrongly shaped weight.
    """
    if 'discriminator' not in shapes['params']:
        state = {name: array for name, array in state.items() if not name.startswith('discriminator.')}
    return read_weights(state, shapes, layouts_of(config, is_legacy(state)))


def to_state_dict(params: dict, config: ConfigDict, *, legacy: bool = False, num_batches: int = 0) -> dict:
    """The inverse of `from_state_dict`; `num_batches` becomes the counter of every batch normalisation."""
    state = write_weights(params, layouts_of(config, legacy))
    counters = [name.replace('running_var', 'num_batches_tracked') for name in state if name.endswith('running_var')]
    return {**state, **dict.fromkeys(counters, np.asarray(num_batches))}


def from_adam(
    optimizer: Any, state: Mapping[str, np.ndarray], opt_state: optax.OptState, shapes: dict, config: ConfigDict
) -> optax.OptState:
    """`opt_state`, a fresh one of `optim.make_optimizer` for Adam, with the moments and the count of the official optimiser.

    optimizer: `state_dict()` of torch.optim.Adam, in which weights have numbers (or, from old versions of torch, any keys);
    those of its group are in the order of the weights in `state`. Raises InputError for another optimiser or other
    settings than those of `config.optim`, and as `from_state_dict`.
    """
    how = 'or convert without the optimiser: --nooptimizer'
    try:
        (group,) = optimizer['param_groups']
        keys, moments = list(group['params']), dict(optimizer['state'])
        found = {key: group[key] for key in ('lr', *ADAM)}
        counts = {int(np.asarray(moment['step'])) for moment in moments.values()}
        first, second = ({key: moment[m] for key, moment in moments.items()} for m in ('exp_avg', 'exp_avg_sq'))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"optimizer: expected one group of Adam's, found something else ({error!r}); {how}") from error
    expected = {'lr': config.optim.learning_rate, **ADAM}
    wrong = [f'{k} {found[k]!r}, not {expected[k]!r}' for k in expected if found[k] != expected[k]]
    if config.optim.name != 'adam' or wrong:
        raise InputError(
            f'optimizer: expected the settings of config.optim (name {config.optim.name!r}), found Adam with '
            f'{", ".join(wrong) or "the same settings"}; change the config, as with '
            f'--config.optim.learning_rate={found["lr"]}, {how}'
        )
    if not moments:
        return opt_state  # saved before the first step
    weights = [name for name in state if not re.search(r'\.(running_mean|running_var|num_batches_tracked)$', name)]
    if len(keys) != len(weights) or set(keys) != set(moments) or len(counts) != 1:
        raise InputError(
            f'optimizer: expected moments of {len(weights)} weights after one number of steps, found {len(keys)} weights, '
            f'{len(moments)} moments and the numbers of steps {sorted(counts)}; {how}'
        )
    layouts, trainable = layouts_of(config, is_legacy(state)), {'params': shapes['params']}
    mu, nu = (
        read_weights({name: moment[key] for name, key in zip(weights, keys, strict=True)}, trainable, layouts)['params']
        for moment in (first, second)
    )
    return optax.tree_utils.tree_set(opt_state, mu=mu, nu=nu, count=np.asarray(counts.pop(), np.int32))


def read_trunk(state: Mapping[str, np.ndarray], shapes: dict, config: ConfigDict) -> dict:
    """The weights of a ResNet of torchvision or timm as the trunk of an image encoder: the part of its variables that they are.

    shapes: `variable_shapes` of the network. Raises InputError for another encoder, and as `from_state_dict`.
    """
    if 'features' not in shapes['params'].get('encoder', {}):
        raise InputError(f'expected the encoder of the config to be a ResNet, found {config.model.encoder!r}')
    trunk = {c: {'encoder': {'features': shapes[c]['encoder']['features']}} for c in ('params', 'batch_stats')}
    state = {f'encoder.features.{name}': array for name, array in state.items() if not name.startswith('fc.')}
    return read_weights(state, trunk, {'encoder': RESNET})


def variable_shapes(method: Method, config: ConfigDict) -> dict:
    """The variables of a method as shapes and dtypes (`jax.eval_shape`)."""
    return jax.eval_shape(method.init, jax.random.key(0), example_batch(config.data))


def _entries(tree: dict, layouts: Mapping[str, Layout]) -> Iterator[tuple[Entry, Any]]:
    """Every leaf of a tree of variables, or of their shapes, with its entry; one of stacked weights with the entry of each."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = tuple(key.key for key in keys)
        module, *layers, kind = path[1:]
        layout = layouts[module]
        stacked = layout.stacked in layers
        for copy in range(leaf.shape[0]) if stacked else (None,):
            numbered = [f'{layer}.{copy}' if stacked and layer == layout.stacked else layer for layer in layers]
            name = '.'.join([*numbered, LEAVES.get(kind, kind)])
            for pattern, replacement in layout.renames:
                name = re.sub(pattern, replacement, name)
            shape, axes = leaf.shape[1:] if stacked else leaf.shape, None
            if kind == 'kernel':
                # Here [*space, in, out], there [out, in, *space].
                ndim = len(shape)
                axes = (ndim - 1, ndim - 2, *range(ndim - 2))
                shape = tuple(shape[axis] for axis in axes)
                if ndim == 2 and not re.fullmatch(layout.linear, layers[-1]):
                    shape = (*shape, 1, 1) if re.fullmatch(layout.square, name) else (*shape, 1)
            yield Entry(path, f'{layout.module or module}.{name}', shape, axes, copy), leaf


def write_weights(tree: dict, layouts: Mapping[str, Layout]) -> dict[str, np.ndarray]:
    """Official names and arrays of variables {collection: {module: tree}}, the inverse of `read_weights`."""
    state = {}
    for entry, leaf in _entries(tree, layouts):
        array = np.asarray(leaf) if entry.copy is None else np.asarray(leaf)[entry.copy]
        state[entry.name] = (array if entry.axes is None else array.transpose(entry.axes)).reshape(entry.shape)
    return state


def read_weights(state: Mapping[str, np.ndarray], like: dict, layouts: Mapping[str, Layout]) -> dict:
    """The variables of `like` ({collection: {module: tree of arrays or shapes}}) from official names and arrays.

    layouts: of each module. Raises InputError as `from_state_dict`.
    """
    tree: dict[str, Any] = {collection: {} for collection in like}
    problems, seen = [], set()
    for entry, leaf in _entries(like, layouts):
        if entry.name not in state:
            problems.append(f'{entry.name}: missing, expected shape {list(entry.shape)}')
            continue
        seen.add(entry.name)
        array = np.asarray(state[entry.name])
        if array.shape != entry.shape:
            problems.append(f'{entry.name}: expected shape {list(entry.shape)}, found {list(array.shape)}')
            continue
        if entry.axes is not None:
            array = array.reshape(array.shape[: len(entry.axes)]).transpose(np.argsort(entry.axes))
        node = tree
        for part in entry.path[:-1]:
            node = node.setdefault(part, {})
        if entry.copy is None:
            node[entry.path[-1]] = np.ascontiguousarray(array, leaf.dtype)
        else:
            node.setdefault(entry.path[-1], np.empty(leaf.shape, leaf.dtype))[entry.copy] = array
    left = [name for name in state if name not in seen and not name.endswith('num_batches_tracked')]
    problems += [f'{name}: not part of this network, found shape {list(np.shape(state[name]))}' for name in left]
    if problems:
        raise InputError(
            'weights: expected those of the network that the config describes, found others; '
            'check config.model against the file:\n  ' + '\n  '.join(problems)
        )
    return tree
