"""Transfer learning: initial weights from a workdir, pretrained weights, or a ResNet from torchvision or timm."""

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.convert import official
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.errors import InputError
from onet_jax.models.method import Method
from onet_jax.parallel import tell
from onet_jax.training.checkpoints import load_best
from onet_jax.training.portable import find_workdir
from onet_jax.training.state import is_in, path_of

MAX_NAMED = 9  # weights in a message

Weights = dict[tuple[str, ...], np.ndarray]  # ('params', 'decoder', 'fc_p', 'kernel') -> array


def read_initial_weights(config: ConfigDict, method: Method) -> Weights | None:
    """The weights of `config.train.init_from` that lie in `config.train.init_modules`; None where a run starts at random.

    init_from is what `find_workdir` takes, of which the best checkpoint counts, or the file of a ResNet (.pth, .safetensors),
    which is the trunk of an image encoder. Without modules they are all that are found there; modules without init_from are
    told. Raises OSError and InputError for weights that cannot be read, that the network of the config lacks or has in another
    shape, for modules that are not complete, and for frozen modules that would stay random.
    """
    source, modules = config.train.init_from, config.train.init_modules
    shapes = official.variable_shapes(method, config)
    if not source:
        _check_frozen(config, shapes, {})
        if modules:
            tell(
                f'config.train.init_modules names {", ".join(modules)}, but there is no config.train.init_from to take them '
                'from: they start at random'
            )
        return None
    try:
        if (workdir := find_workdir(source)).is_dir():
            _, state, _ = load_best(workdir)
            found = _flatten(state.get('average', state['variables']))
        else:
            weights, _ = official.split_checkpoint(read_torch_file(source))
            found = _flatten(official.read_trunk(weights, shapes, config))
        chosen = _choose(found, _flatten(shapes), tuple(modules))
        _check_frozen(config, shapes, chosen)
    except InputError as error:
        raise InputError(f'config.train.init_from: {source}: {error}') from error
    return {path: np.asarray(array) for path, array in chosen.items()}


def start_from(variables: dict, weights: Weights) -> dict:
    """The variables of a network with some of their weights replaced."""
    return jax.tree_util.tree_map_with_path(lambda path, array: weights.get(path_of(path), array), variables)


def _check_frozen(config: ConfigDict, shapes: dict, chosen: Weights) -> None:
    random = [
        '.'.join(path[1:])
        for path in _flatten({'params': shapes['params']})
        if is_in(path, config.train.frozen) and path not in chosen
    ]
    if random:
        raise InputError(
            f'config.train.init_from: expected weights of all frozen modules, {tuple(config.train.frozen)}, which would stay '
            f'random, found none of {random[:MAX_NAMED]}; give a workdir that has them, or let them learn: '
            '--config.train.frozen="()"'
        )


def _choose(found: Weights, shapes: dict, modules: tuple[str, ...]) -> Weights:
    """Those of the weights that lie in the modules, all of them where none is named."""
    chosen = {path: array for path, array in found.items() if not modules or is_in(path, modules)}
    problems = [
        f'{".".join(path[1:])}: expected in it' for path in shapes if is_in(path, modules) and path not in chosen
    ]
    for path, array in chosen.items():
        if path not in shapes:
            problems.append(f'{".".join(path[1:])}: not part of the network')
        elif shapes[path].shape != array.shape:
            problems.append(
                f'{".".join(path[1:])}: expected the shape {list(shapes[path].shape)}, found {list(array.shape)}'
            )
    if problems or not chosen:
        known = sorted({path[1] for path in found})
        what = '\n  '.join(problems[:MAX_NAMED]) or f'no weight in the modules {modules}'
        raise InputError(
            f'expected weights of the network that the config describes, found others (its modules are {known}; '
            f'config.train.init_modules says which are taken):\n  {what}'
            + (f'\n  and {len(problems) - MAX_NAMED} more' if len(problems) > MAX_NAMED else '')
        )
    return chosen


def _flatten(tree: dict) -> dict:
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
