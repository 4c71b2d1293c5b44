"""Checkpoints of a workdir: the two latest ones and the best one in validation (`storage.py` writes and checks them).

WORKDIR/config.json     the resolved config          WORKDIR/run.json     data_dir, which dataset it is, what is left out
WORKDIR/checkpoints/STEP                             WORKDIR/log.jsonl, WORKDIR/tensorboard
WORKDIR/lock                held while a run trains  WORKDIR/bad_batch_STEP.npz    where the loss was not finite
WORKDIR/calibration.json    the threshold chosen for a checkpoint (see `evaluation/calibrate.py`), where one was
WORKDIR/domain.npz          the reference of out-of-distribution scores (see `inference/out_of_distribution.py`), if made
WORKDIR/images/STEP.png     reconstructions during training; WORKDIR/profile, a trace; both where they were asked for
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.convert import official
from onet_jax.convert.keras_lists import read_keras_lists
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.data.datasets import digest
from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.json_files import COUNT, FLAG, PATH, PROBABILITY, TEXT, Value, number, read_json, whole
from onet_jax.parallel import from_first_process, is_first_process, tell
from onet_jax.scores import METRICS
from onet_jax.training import storage
from onet_jax.training.optim import ENDING_SCHEDULES, make_optimizer
from onet_jax.training.portable import is_portable, read_weights
from onet_jax.training.state import TrainState, begin_average

NUM_TRIES = 5  # to load a checkpoint of a run that is saving
# Keys of a config that do not change what a run computes: they may differ when it is resumed.
FREE_KEYS = ('eval.render_every_steps',)
_ADVICE = 'restore the file from a copy, or train anew in another --workdir'
WIDTH, RATE, LENGTH = whole(0, 2**16), number(0), number(1e-9)
SETTING = Value('a text, a number, true or false', lambda value: type(value) in (str, int, float, bool))


def _one_or_several(of: Value) -> Callable:
    return lambda value: [of] if isinstance(value, list) else of


# The schema of `config.json`. The keys of `model` are those of a paper, which checks them itself.
CONFIG = {
    'seed': whole(0, 2**63 - 1),
    'model': {'name': TEXT, '': _one_or_several(SETTING)},
    'data': {
        'feed?': TEXT, 'inputs': [TEXT], 'targets': [TEXT], 'families?': [TEXT], 'sampling?': TEXT,
        **dict.fromkeys(('num_input_points?', 'num_points_per_step?', 'num_near_points?', 'num_target_points?'), COUNT),
        'image_size?': WIDTH, 'noise_std?': RATE, 'cell_size?': LENGTH, 'scan_cell?': RATE, 'partial?': FLAG, 'augment?': FLAG,
        'keep_outliers?': FLAG, 'random_scans?': FLAG,
    },
    'optim': {
        'name?': TEXT, 'schedule?': TEXT,
        **dict.fromkeys(('learning_rate?', 'clip_norm?', 'ema_decay?', 'decay_factor?'), RATE),
        **dict.fromkeys(('warmup_steps?', 'accumulate_steps?'), COUNT), 'decay_steps?': _one_or_several(COUNT),
    },
    'train': {
        'dtype': TEXT, 'backend?': TEXT, 'init_from?': TEXT, 'num_steps?': COUNT, 'batch_size?': COUNT,
        'init_modules?': [TEXT], 'frozen?': [TEXT],
        **dict.fromkeys(('log_every_steps?', 'eval_every_steps?', 'checkpoint_every_steps?'), COUNT),
    },
    'eval': {
        'batch_size': whole(1, 2**16), 'split': TEXT, 'targets': [TEXT], 'threshold?': PROBABILITY,
        'sample?': FLAG, 'project_last?': FLAG, 'select_by?': TEXT, 'render_every_steps?': COUNT,
    },
    'mesh': {'resolution?': whole(1, 2**12), 'upsampling_steps?': whole(0, 16)},
}  # fmt: skip


def open_checkpoints(workdir: str | Path) -> storage.Checkpointer:
    """The checkpoints of a workdir, to write: keeps the two latest and the one with the highest 'score' (see `score`).

    A damaged one is named and not used. Raises InputError where there are some but none is sound.
    """
    directory = Path(workdir).absolute() / 'checkpoints'
    directory.mkdir(parents=True, exist_ok=True)
    return storage.Checkpointer(directory, writes=True)


def score(config: ConfigDict, means: dict[str, float]) -> float:
    """The score by which the best checkpoint is chosen, from its means over the validation split: higher is better."""
    value = means[config.eval.select_by]
    return value if METRICS[config.eval.select_by].higher_is_better else -value


def has_checkpoints(workdir: str | Path) -> bool:
    """Whether a run has saved something there."""
    return bool(storage.find_steps(Path(workdir) / 'checkpoints'))


def read_checkpoints(workdir: str | Path) -> storage.Checkpointer:
    """The checkpoints of a workdir, to read only: a run that is writing there is not disturbed.

    A damaged one is named and not used. Raises FileNotFoundError where there is none, InputError where none is sound.
    """
    directory = Path(workdir).absolute() / 'checkpoints'
    if not has_checkpoints(workdir):
        raise FileNotFoundError(
            f'{directory}: expected at least one checkpoint, found none; train first with '
            f'`onet train --config=... --workdir={workdir}`'
        )
    return storage.Checkpointer(directory, writes=False)


def restore(checkpointer: storage.Checkpointer, like: TrainState, step: int) -> TrainState:
    """The state of checkpoint `step`, with the shapes, types and placement of `like`.

    Raises InputError, with the differences, for a checkpoint of another network or optimiser.
    """
    differences = storage.describe_differences(checkpointer.metadata(step).metadata, like)
    if differences:
        raise InputError(
            f'{checkpointer.directory / str(step)}: expected the arrays of this config, found others:\n'
            + '\n'.join(differences)
            + '\nUse another --workdir, or give the old values of config.model and config.optim.'
        )
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return checkpointer.load(step, abstract)


def load_best(workdir: str | Path) -> tuple[int, dict, dict]:
    """Step, state and metrics of the best checkpoint in validation, of the latest where none was validated (no metrics).

    The state is on the first local device. Of weights that travel, those. It is looked for again where a run that saves has
    removed it meanwhile. Raises as `read_checkpoints` and `portable.read_weights`.
    """
    if is_portable(workdir):
        step, variables, metrics = read_weights(workdir)
        return step, {'variables': variables}, metrics
    place = SingleDeviceSharding(jax.local_devices()[0])  # whatever devices it was saved from
    tries_left = NUM_TRIES
    while True:
        tries_left -= 1
        checkpointer = read_checkpoints(workdir)
        best = checkpointer.best
        try:
            if best is None:
                raise FileNotFoundError(f'{checkpointer.directory}: expected a checkpoint, found none')
            stored = checkpointer.metadata(best.step).metadata
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), stored)
            return best.step, checkpointer.load(best.step, abstract), best.metrics
        except Exception:  # orbax raises many types
            if not tries_left or (best and best.path.exists()):
                raise


def check_workdir(workdir: Path, config: ConfigDict, *, accept_changes: bool = False) -> None:
    """Raises InputError, with the differences, for a workdir of another config; with `accept_changes` prints them.

    A run may be made longer, unless its learning rate depends on the number of steps. Raises InputError for weights that
    travel, too: they are not to be changed.
    """
    if is_portable(workdir):
        raise InputError(
            f'{workdir}: expected a folder to train in, found weights that travel; choose another --workdir, and start from '
            f'them by --config.train.init_from={workdir}'
        )
    path = workdir / 'config.json'
    if not path.exists():
        return
    old, new = _flatten(read_config(workdir).to_dict()), _flatten(config.to_dict())
    free = FREE_KEYS if config.optim.schedule in ENDING_SCHEDULES else (*FREE_KEYS, 'train.num_steps')
    if has_checkpoints(workdir):
        free = (*free, 'train.init_from')  # it is read before the first step only
    changed = [
        f'  config.{key}: {old.get(key, "(absent)")!r} in the workdir, {new.get(key, "(absent)")!r} asked for'
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key not in free
    ]
    if changed and accept_changes:
        tell(f'{path}: going on with another config:\n' + '\n'.join(changed))
    elif changed:
        raise InputError(
            f'{path}: this workdir belongs to another config:\n' + '\n'.join(changed) + '\n'
            'Use another --workdir, or give the old values to go on with this run; --accept_changes goes on with the new ones.'
        )


def claim_workdir(workdir: Path, config: ConfigDict, data_dir: Path, left_out: Iterable[str] = ()) -> None:
    """Write the config, the dataset and its shapes that are left out to the workdir, in process 0.

    Raises InputError for a run that was trained on another dataset, and where the processes have different datasets. Prints a
    line where the run left out other shapes.
    """
    path, dataset, left_out = workdir / 'run.json', digest(data_dir), sorted(left_out)
    first = from_first_process([dataset, left_out])
    if first != [dataset, left_out]:
        raise InputError(
            f'{data_dir}: expected the dataset of process 0, {first[0]} without {first[1]}, found in process '
            f'{jax.process_index()} {dataset} without {left_out}; give all hosts the same files'
        )
    if not is_first_process():
        return
    if path.exists() and has_checkpoints(workdir):
        old = read_run(workdir)
        if old['dataset'] != dataset:
            raise InputError(
                f'{path}: this run was trained on another dataset, {old["data_dir"]}; found {data_dir}. '
                'Give that --data_dir, or another --workdir.'
            )
        if old['left_out'] != left_out:
            tell(f'{path}: until now the run left out {old["left_out"]}, from now on {left_out}: other batches')
    write_json(workdir / 'config.json', config.to_dict())
    write_json(path, {'data_dir': str(data_dir), 'dataset': dataset, 'left_out': left_out})


def read_config(workdir: str | Path) -> ConfigDict:
    """The config of a workdir. Raises FileNotFoundError where there is none, InputError for a damaged one."""
    path = Path(workdir) / 'config.json'
    if not path.exists():
        raise FileNotFoundError(
            f'{path}: expected a workdir written by `onet train --workdir={workdir}`, found no config.json'
        )
    content = read_json(path, CONFIG, _ADVICE)
    try:
        return ConfigDict(_tuples(content))
    except ValueError as error:  # names with a dot
        raise InputError(f'{path}: expected the config of a run, found another: {error}; {_ADVICE}') from error


def read_run(workdir: str | Path) -> dict:
    """The content of WORKDIR/run.json. Raises FileNotFoundError where there is none, as in a workdir that was converted."""
    schema = {'data_dir': PATH, 'dataset': TEXT, 'left_out': [TEXT]}
    return read_json(Path(workdir) / 'run.json', schema, _ADVICE)


def import_checkpoint(path: str | Path, config: ConfigDict, workdir: str | Path, *, optimizer: bool = True) -> int:
    """Make a workdir from a checkpoint of the official implementation; returns the step from which training resumes.

    path: `.pt` (both formats of torch), `.safetensors`, or `.npy` of the original NeRF. With `optimizer` the state of Adam is
    imported too, where the file has it. Everything is read and checked before anything is written. Raises FileNotFoundError and
    InputError that name the file: for one that is damaged, not safe to read, or of another network than `config` describes, and
    for a workdir that holds checkpoints.
    """
    workdir = Path(workdir)
    check_workdir(workdir, config)
    if has_checkpoints(workdir):
        raise InputError(f'{workdir}: expected a new workdir, found checkpoints in it; choose another --workdir')
    method = models.build(config)
    stored = read_keras_lists(path) if Path(path).suffix == '.npy' else read_torch_file(path)
    try:
        state, rest = official.split_checkpoint(stored)
        shapes = official.variable_shapes(method, config)
        variables = jax.tree.map(jnp.asarray, official.from_state_dict(state, shapes, config))
        opt_state = make_optimizer(config, config.train.num_steps).init(variables['params'])
        if optimizer and 'optimizer' in rest:
            if config.train.frozen:
                raise InputError(
                    f"'optimizer': expected no frozen modules, found config.train.frozen={tuple(config.train.frozen)}; convert "
                    'without the optimiser: --nooptimizer'
                )
            opt_state = official.from_adam(rest['optimizer'], state, opt_state, shapes, config)
        step = rest.get('it', rest.get('global_step', 0))
        if not isinstance(step, int) or not 0 <= step < 2**31:
            raise InputError(f"'it': expected a number of steps, found {step!r}")
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    train_state = TrainState(jnp.asarray(step, jnp.int32), variables, jax.tree.map(jnp.asarray, opt_state))
    train_state = begin_average(train_state, config.optim.ema_decay)
    write_json(workdir / 'config.json', config.to_dict())
    with open_checkpoints(workdir) as checkpointer:
        checkpointer.save(step, train_state)
    return step


def _flatten(tree: dict, prefix: str = '') -> dict:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat


def _tuples(tree):
    """Lists to tuples: JSON has lists only, configs hold tuples."""
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree
