"""Experiments: `get_config(arg)` of each file returns a locked ConfigDict. Variants combine, as in onet_points:tiny,nocbn.

A file states the `model` and the `data` of its experiment in full. What has nothing to do with a paper (the optimiser, the
loop, validation, meshes) is here with its usual values, and a file names those that it changes.

From Python a file is a function, `onet_jax.configs.onet_points('tiny,nocbn')`. A file of your own imports what it shares with
these from `onet_jax.configs` too.
"""

import ast
import difflib
import io
import runpy
import tokenize
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from ml_collections import ConfigDict

from onet_jax.errors import InputError

FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob('[!_]*.py'))}


def __getattr__(name: str) -> Callable[[str], ConfigDict]:
    if name not in FILES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}; its configs are {", ".join(FILES)}')
    function = import_module(f'{__name__}.{name}').get_config
    globals()[name] = function  # where the import has put the module
    return function


def __dir__() -> list[str]:
    return [*FILES, 'load_config']


def find_file(name: str) -> str:
    """The file of a config, with its variant: 'onet_points:tiny' -> '/.../onet_points.py:tiny'; paths are as they were.

    Raises InputError for an unknown name.
    """
    file, colon, variant = name.partition(':')
    if file.endswith('.py'):
        return name
    if file not in FILES:
        near = difflib.get_close_matches(file, FILES, n=1)
        raise InputError(
            f'--config: expected one of {", ".join(FILES)}, or a file of your own (.py), found {file!r}'
            + (f'; did you mean {near[0]!r}?' if near else '')
        )
    return f'{FILES[file]}{colon}{variant}'


def load_config(name: str) -> ConfigDict:
    """The config of a name or a file with its variant, such as 'onet_points:tiny' or 'mine.py'.

    Raises OSError for a file that cannot be read, and InputError, with the line, for one that fails.
    """
    file, _, variant = find_file(name).partition(':')
    try:
        names = runpy.run_path(file)
        if 'get_config' not in names:
            raise InputError(f'{file}: expected a function get_config(variant), found none')
        config = names['get_config'](variant)
    except (InputError, OSError):
        raise
    except SyntaxError as error:
        raise InputError(f'{error.filename}, line {error.lineno}: expected Python, found {error.msg}') from error
    except Exception as error:  # a config may be any program
        line = [at for at in traceback.extract_tb(error.__traceback__) if at.filename == file][-1:]
        where = f'{file}, line {line[0].lineno}' if line else file
        raise InputError(f'{where}: expected a config, found {type(error).__name__}: {error}') from error
    if not isinstance(config, ConfigDict):
        raise InputError(f'{file}: expected a ConfigDict from get_config, found {type(config).__name__}')
    return config


def list_configs() -> str:
    """Every config with its title and its variants."""
    modules = {name: runpy.run_path(str(file)) for name, file in FILES.items()}
    return '\n'.join(
        f'{name}\n    {module["__doc__"].splitlines()[0]}\n    variants: {"  ".join(filter(None, module["VARIANTS"]))}'
        for name, module in modules.items()
    )


def optim(**changes) -> dict:
    return {
        'name': 'adam',  # 'adam', 'muon', 'rmsprop' or 'keras_adam'
        'learning_rate': 1e-4,
        'schedule': 'constant',  # 'constant', 'cosine', 'step' or 'exponential', after the warm-up
        'warmup_steps': 0,
        'decay_steps': 100_000,  # of 'step' and 'exponential'; of 'step', in a config file, also several: (90_000, 100_000)
        'decay_factor': 0.3,  # of the learning rate in decay_steps, or at each of them
        'clip_norm': 0.0,  # gradient clipping by global norm; 0 is off
        'accumulate_steps': 1,  # gradient accumulation: batches of one update
        'ema_decay': 0.0,  # of the exponential moving average of the weights that is validated and used; 0 is off
        **changes,
    }


def train(**changes) -> dict:
    return {
        'num_steps': 300_000,
        'batch_size': 64,  # over all devices
        'backend': 'pmap',  # 'pmap' or 'jit'
        'init_from': '',  # a trained workdir, or a ResNet of torchvision or timm (.pth, .safetensors), to start from
        'init_modules': (),  # what is taken of it, such as ('decoder',); () is all
        'frozen': (),  # modules whose weights do not learn, such as ('decoder', 'encoder.features')
        'dtype': 'float32',  # 'bfloat16' is mixed precision: weights, statistics and loss stay float32
        'log_every_steps': 10,
        'eval_every_steps': 2000,
        'checkpoint_every_steps': 1000,
        **changes,
    }


def eval_(**changes) -> dict:
    return {
        'batch_size': 10,
        'split': 'val',  # of validation
        'targets': ('volume_points', 'voxels'),  # with 'voxels' validation has the IoU with the 32^3 voxels too
        'threshold': 0.2,
        'sample': False,  # latent codes: samples of the prior, or its mean
        'project_last': None,  # of sequences: their last frame is moved to the target before it is scored
        'select_by': 'iou',  # 'iou', 'loss', ...: the metric that makes a checkpoint the best one
        'render_every_steps': 0,  # pictures of reconstructions, in WORKDIR/images and TensorBoard; 0 is never
        **changes,
    }


def mesh(**changes) -> dict:
    return {
        'resolution': 32,  # cells along each edge of the coarsest grid
        'upsampling_steps': 2,  # of MISE: how often cells at the surface are halved
        **changes,
    }


def experiment(seed: int, **groups: dict) -> ConfigDict:
    """The locked config; keys with the value None are left out: the variant has none of them."""
    kept = {name: {key: value for key, value in group.items() if value is not None} for name, group in groups.items()}
    return ConfigDict({'seed': seed, **kept}).lock()


def choose(name: str, variants: str, *options: Sequence[str]) -> tuple[str, ...]:
    """For each of `options` the word that the comma-separated variants choose, '' for none.

    Raises InputError for an unknown word and for two words of one option.
    """
    words = [word for word in variants.split(',') if word]
    unknown = [word for word in words if not any(word in group for group in options)]
    if unknown:
        known = tuple(word for group in options for word in group)
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise InputError(
            f'configs/{name}.py: expected a variant of {known}, found {unknown[0]!r}'
            + (f'; did you mean {near[0]!r}?' if near else '')
        )
    for group in options:
        both = [word for word in words if word in group]
        if len(both) > 1:
            raise InputError(f'configs/{name}.py: expected one of the variants {tuple(group)}, found {both}')
    return tuple(next((word for word in words if word in group), '') for group in options)


def describe(config: ConfigDict, file: str | Path) -> str:
    """The values of the config of a file as an indented listing, each with the comment beside its key in the sources."""
    comments = {}
    for source in (__file__, file):
        for path, comment in _read_comments(source):
            comments[path] = comment or comments.get(path, '')
    places = {path: i for i, path in enumerate(comments)}

    def lines(values: ConfigDict, group: str, indent: str) -> Iterator[str]:
        for key in sorted(values, key=lambda key: places.get((group, key), len(places))):
            value, comment = values[key], comments.get((group, key))
            beside = f'  # {comment}' if comment else ''
            if not isinstance(value, ConfigDict):
                yield f'{indent}{key}: {value!r}{beside}'
            else:
                yield f'{indent}{key}:{beside}' if value else f'{indent}{key}: {{}}{beside}'
                yield from lines(value, key, indent + '    ')

    return '\n'.join(lines(config, 'get_config', ''))


def _read_comments(file: str | Path) -> list[tuple[tuple[str, str], str]]:
    """((group, key), comment or '') of the keys of all dicts and of all arguments by name, in the order of a source file.

    The group is the function that returns the dict, its key in another dict or the variable that it is assigned to.
    """
    with tokenize.open(file) as stream:  # which knows the byte order mark
        text, keys = stream.read(), []
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string.lstrip('# ') for token in tokens if token.type == tokenize.COMMENT}

    def visit(node: ast.AST, group: str):
        match node:
            case ast.FunctionDef(name=name):
                group = name.rstrip('_')
            case ast.Assign(targets=[ast.Name(id=name)]):
                group = name
            case ast.keyword(arg=str(name)):
                keys.append((node.lineno, (group, name)))
                group = name
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant):
                        keys.append((key.lineno, (group, key.value)))
                    visit(value, key.value if isinstance(key, ast.Constant) else group)
                return
        for child in ast.iter_child_nodes(node):
            visit(child, group)

    visit(ast.parse(text), '')
    last = dict(keys)  # of several keys on a line the comment is the last one's
    return [(path, comments.get(line, '') if last[line] == path else '') for line, path in keys]
