"""Weights of the official PyTorch implementation to the variables of this package, and back.

Sub-modules here carry the official names, so that a weight converts by rule: ('decoder', 'block0', 'fc_0', 'kernel') is
`decoder.block0.fc_0.weight`. What differs stands in one table, with a `Layout` for each family. Both directions walk the
tree of variables that the config calls for, so that no weight can be missed, left over or of another shape.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from onet_jax.models import onet


class Layout(NamedTuple):
    """How the official code names and stores what a module here calls otherwise."""

    linear: str = (
        '.*'  # the layers (a pattern of their names) that are linear there; others are convolutions of width 1
    )
    renames: tuple[tuple[str, str], ...] = ()  # (pattern, replacement) of the path below the module


_POINTWISE = Layout(linear='fc_z|fc_c')
DECODERS = {
    'simple': Layout(),
    'cbatchnorm': _POINTWISE,
    'cbatchnorm_noresnet': _POINTWISE,
    'batchnorm': _POINTWISE,
    'cbatchnorm2': _POINTWISE._replace(
        renames=((r'^fc_p\.', 'conv_p.'), (r'^fc_out\.', 'conv_out.'), (r'^block(\d)\.', r'blocks.\1.'))
    ),
}
RESNET = Layout(renames=((r'layer(\d)_(\d+)\.', r'layer\1.\2.'), (r'downsample_(\d)\.', r'downsample.\1.')))
ENCODERS = {name: RESNET if name.startswith('resnet') else Layout() for name in onet.ENCODERS}

LEAVES = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}  # others have the same name
ADAM = {'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0, 'amsgrad': False}  # as `optim.make_optimizer` makes it


class Entry(NamedTuple):
    """One weight: where it lies here and how the official code stores it."""

    path: tuple[str, ...]  # ('params', 'decoder', 'fc_p', 'kernel')
    name: str  # 'decoder.fc_p.weight'
    shape: tuple[int, ...]  # there
    axes: tuple[int, ...] | None  # official axes = ours in this order; None where they are the same


def split_checkpoint(stored: object) -> tuple[dict[str, np.ndarray], dict]:
    """What an official file holds: the weights, and everything else by name ('optimizer', 'it', ...).

    A file of weights alone is taken, too. Raises ValueError for anything else.
    """
    if isinstance(stored, dict) and isinstance(stored.get('model'), dict):
        rest = {key: value for key, value in stored.items() if key != 'model'}
        stored = stored['model']
    else:
        rest = {}
    if not isinstance(stored, dict) or not stored or not all(isinstance(x, np.ndarray) for x in stored.values()):
        found = sorted(map(str, stored))[:9] if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"expected weights by name, or a checkpoint with the key 'model', found {found}")
    return stored, rest


def from_state_dict(state: Mapping[str, np.ndarray], config: ConfigDict) -> dict:
    """Official names and arrays, for the network of `config.model` -> {'params': ..., 'batch_stats': ...} in float32.

    Both key layouts of conditional batch normalisation are read. Raises ValueError that lists every missing, left over or
    wrongly shaped weight.
    """
    return read_weights(state, variable_shapes(config), layouts_of(config, is_legacy(state)))


def to_state_dict(params: dict, config: ConfigDict, *, legacy: bool = False, num_batches: int = 0) -> dict:
    """The inverse of `from_state_dict`; `num_batches` becomes the counter of every batch normalisation."""
    state = write_weights(params, layouts_of(config, legacy))
    counters = [name.replace('running_var', 'num_batches_tracked') for name in state if name.endswith('running_var')]
    return {**state, **dict.fromkeys(counters, np.asarray(num_batches))}


def from_adam(optimizer: Mapping, state: Mapping[str, np.ndarray], opt_state, config: ConfigDict):
    """The official optimiser's state in the place of the fresh `opt_state` of `optim.make_optimizer` for Adam.

    optimizer: `state_dict()` of torch.optim.Adam; it numbers the weights in the order of `state`. Raises ValueError for
    another optimiser or rate than that of `config.optim`, and as `from_state_dict`.
    """
    expected = {'lr': config.optim.learning_rate, **ADAM}
    found = {key: optimizer['param_groups'][0].get(key, expected[key]) for key in expected}
    wrong = [
        f'{k} {found[k]!r}, not {expected[k]!r}' for k in expected if not np.allclose(found[k], expected[k], rtol=1e-6)
    ]
    if config.optim.name != 'adam' or wrong or len(optimizer['param_groups']) != 1:
        raise ValueError(
            f"optimizer: expected one group of Adam's with the settings of config.optim (name {config.optim.name!r}), "
            f'found {", ".join(wrong) or "another"}; change the config, as with --config.optim.learning_rate={found["lr"]}, '
            'or convert without the optimiser: --nooptimizer'
        )
    weights = [name for name in state if not re.search(r'\.(running_mean|running_var|num_batches_tracked)$', name)]
    moments = {name: optimizer['state'][i] for i, name in enumerate(weights) if i in optimizer['state']}
    if not moments:
        return opt_state  # saved before the first step
    counts = {int(np.asarray(moment['step'])) for moment in moments.values()}
    if len(counts) != 1:
        raise ValueError(f'optimizer: expected one number of steps for all weights, found {sorted(counts)}')
    trainable = {'params': variable_shapes(config)['params']}
    layouts = layouts_of(config, is_legacy(state))
    first, second = (
        read_weights({name: moment[key] for name, moment in moments.items()}, trainable, layouts)['params']
        for key in ('exp_avg', 'exp_avg_sq')
    )
    count = np.asarray(counts.pop(), np.int32)
    return optax.tree_utils.tree_set(opt_state, mu=first, nu=second, count=count)


def init_trunk(params: dict, state: Mapping[str, np.ndarray], config: ConfigDict) -> dict:
    """`params` with the trunk of the image encoder taken from a ResNet of torchvision or timm, its classifier left out.

    Raises ValueError for another encoder, and as `from_state_dict`.
    """
    if ENCODERS[config.model.encoder] is not RESNET:
        raise ValueError(f'config.model.encoder_init: expected a ResNet to initialise, found {config.model.encoder!r}')
    trunk = {c: {'encoder': {'features': params[c]['encoder']['features']}} for c in ('params', 'batch_stats')}
    state = {f'encoder.features.{name}': array for name, array in state.items() if not name.startswith('fc.')}
    read = read_weights(state, trunk, {'encoder': RESNET})
    return {
        c: {**params[c], 'encoder': {**params[c]['encoder'], 'features': read[c]['encoder']['features']}}
        for c in params
    }


def variable_shapes(config: ConfigDict) -> dict:
    """{'params': ..., 'batch_stats': ...} of the network of `config.model`, as shapes; nothing is computed."""
    init = onet.occupancy_network(config.model).init
    shapes = jax.eval_shape(init, jax.random.key(0), onet.example_batch(config.model))
    return {'params': shapes['params'], 'batch_stats': shapes.get('batch_stats', {})}


def legacy_layout(layout: Layout) -> Layout:
    """Conditional batch normalisation had linear layers of other names first (option `legacy`); the same maths."""
    return Layout(f'{layout.linear}|conv_gamma|conv_beta', (*layout.renames, (r'conv_(gamma|beta)\.', r'fc_\1.')))


def is_legacy(state: Mapping[str, np.ndarray]) -> bool:
    """Whether the weights have the names that conditional batch normalisation had first."""
    return any(name.endswith('.fc_gamma.weight') for name in state)


def layouts_of(config: ConfigDict, legacy: bool) -> dict[str, Layout]:
    """The layout of each module of the network of `config.model`."""
    decoder = DECODERS[config.model.decoder]
    decoder = legacy_layout(decoder) if legacy else decoder
    return {'decoder': decoder, 'encoder': ENCODERS[config.model.encoder], 'encoder_latent': Layout()}


def _entries(tree: dict, layouts: dict[str, Layout]) -> Iterator[tuple[Entry, object]]:
    """Every leaf of a tree of variables or of their shapes, with its entry."""
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = tuple(key.key for key in keys)
        module, *layers, kind = path[1:]
        layout, name = layouts[module], '.'.join([*layers, LEAVES.get(kind, kind)])
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        shape, axes = leaf.shape, None
        if kind == 'kernel':
            # Here [*space, in, out], there [out, in, *space].
            axes = (leaf.ndim - 1, leaf.ndim - 2, *range(leaf.ndim - 2))
            shape = tuple(leaf.shape[axis] for axis in axes)
            if leaf.ndim == 2 and not re.fullmatch(layout.linear, layers[-1]):
                shape = (*shape, 1)
        yield Entry(path, f'{module}.{name}', shape, axes), leaf


def write_weights(tree: dict, layouts: Mapping[str, Layout]) -> dict[str, np.ndarray]:
    """Official names and arrays of variables {collection: {module: tree}}, the inverse of `read_weights`."""
    state = {}
    for entry, leaf in _entries(tree, layouts):
        array = np.asarray(leaf)
        state[entry.name] = (array if entry.axes is None else array.transpose(entry.axes)).reshape(entry.shape)
    return state


def read_weights(state: Mapping[str, np.ndarray], like: dict, layouts: Mapping[str, Layout]) -> dict:
    """The variables of `like` ({collection: {module: tree of arrays or shapes}}) from official names and arrays.

    layouts: of each module. Raises ValueError as `from_state_dict`.
    """
    tree, problems, seen = {collection: {} for collection in like}, [], set()
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
        node[entry.path[-1]] = np.ascontiguousarray(array, leaf.dtype)
    left = [name for name in state if name not in seen and not name.endswith('num_batches_tracked')]
    problems += [f'{name}: not part of this network, found shape {list(np.shape(state[name]))}' for name in left]
    if problems:
        raise ValueError(
            'weights: expected those of the network that the config describes, found others; '
            'check config.model against the file:\n  ' + '\n  '.join(problems)
        )
    return tree
