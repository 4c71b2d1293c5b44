"""Checkpoints of a workdir: the two latest ones and the best one in validation (`storage.py` writes and checks them).

WORKDIR/config.json     the resolved config          WORKDIR/run.json     data_dir, which dataset it is, what is left out
WORKDIR/checkpoints/STEP                             WORKDIR/log.jsonl, WORKDIR/tensorboard
WORKDIR/lock                held while a run trains  WORKDIR/bad_batch_STEP.npz    where the loss was not finite
WORKDIR/calibration.json    the threshold chosen for a checkpoint (see `evaluation/calibrate.py`), where one was
WORKDIR/domain.npz          what the network has seen (see `evaluation/domain.py`), where that was asked for
WORKDIR/images/STEP.png     reconstructions on the way, and WORKDIR/profile a trace, where they were asked for
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.convert import official
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.evaluation.calibrate import Calibration, calibrate
from onet_jax.files import write_json
from onet_jax.inference.scenes import build_method
from onet_jax.models.occupancy import OccupancyNetwork
from onet_jax.parallel import from_first_process, is_first_process, tell
from onet_jax.training import storage
from onet_jax.training.optim import ENDING_SCHEDULES, make_optimizer
from onet_jax.training.state import TrainState, begin_average


def open_checkpoints(workdir: str | Path) -> storage.Checkpointer:
    """The checkpoints of a workdir, to write: keeps the two latest and the one with the highest 'score' (see `score`).

    A damaged one is named and not used. Raises ValueError where there are some but none is sound.
    """
    directory = Path(workdir).absolute() / 'checkpoints'
    directory.mkdir(parents=True, exist_ok=True)
    return storage.Checkpointer(directory, writes=True)


# `config.eval.select_by` -> whether more of it is better.
SELECTORS = {'iou': True, 'loss': False}


def score(config: ConfigDict, means: dict[str, float]) -> float:
    """How good a checkpoint is, from its means over the validation split: more is better."""
    value = means[config.eval.select_by]
    return value if SELECTORS[config.eval.select_by] else -value


# Keys that the config.json of an older workdir lacks, with values that mean what was done then.
LATER_KEYS = {
    'optim': {
        'decay_steps': 100_000,
        'decay_factor': 0.3,
        'clip_norm': 0.0,
        'accumulate_steps': 1,
        'ema_decay': 0.0,
    },
    'train': {'dtype': 'float32'},
    'eval': {'render_every_steps': 0},
}
# The same in config.model, of the networks with one of these encoders.
LATER_MODEL_KEYS = {
    encoder: {'centred': False} for encoder in ('pointnet_local_pool', 'voxel_simple_local', 'pointnet_crop_local_pool')
}
# Keys on which no number of a run depends.
FREE_KEYS = ('eval.render_every_steps',)


def has_checkpoints(workdir: str | Path) -> bool:
    """Whether a run has saved something there."""
    return bool(storage.find_steps(Path(workdir) / 'checkpoints'))


def read_checkpoints(workdir: str | Path) -> storage.Checkpointer:
    """The checkpoints of a workdir, to read only: a run that is writing there is not disturbed.

    A damaged one is named and not used. Raises FileNotFoundError where there is none, ValueError where none is sound.
    """
    directory = Path(workdir).absolute() / 'checkpoints'
    if not has_checkpoints(workdir):
        raise FileNotFoundError(
            f'{directory}: expected at least one checkpoint, found none; train first with '
            f'`python -m launch.train --config=... --workdir={workdir}`'
        )
    return storage.Checkpointer(directory, writes=False)


def restore(checkpointer: storage.Checkpointer, like: TrainState, step: int) -> TrainState:
    """The state of checkpoint `step`, with the shapes, types and placement of `like`.

    Raises ValueError, with the differences, for a checkpoint of another network or optimiser.
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


def best_step(checkpointer: storage.Checkpointer) -> int:
    """The step of the best checkpoint in validation; the latest where none was validated."""
    return checkpointer.best.step


def check_workdir(workdir: Path, config: ConfigDict, *, accept_changes: bool = False) -> None:
    """Raises ValueError, with the differences, for a workdir of another config; with `accept_changes` prints them.

    The number of steps may differ where the learning rate does not depend on it: a run may be made longer.
    """
    path = workdir / 'config.json'
    if not path.exists():
        return
    old, new = _flatten(read_config(workdir).to_dict()), _flatten(config.to_dict())
    free = FREE_KEYS if config.optim.schedule in ENDING_SCHEDULES else (*FREE_KEYS, 'train.num_steps')
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
    """Store config, dataset and the shapes that are left out of it in the workdir; of several processes the first one does.

    Raises ValueError where a run on another dataset is to be resumed, and where the processes differ in what they have of
    it. Prints a line where the run left out other shapes.
    """
    path, dataset, left_out = workdir / 'run.json', records.digest(data_dir), sorted(left_out)
    first = from_first_process([dataset, left_out])
    if first != [dataset, left_out]:
        raise InputError(
            f'{data_dir}: expected the dataset of process 0, {first[0]} without {first[1]}, found in process '
            f'{jax.process_index()} {dataset} without {left_out}; give all hosts the same files'
        )
    if not is_first_process():
        return
    if path.exists() and has_checkpoints(workdir):
        old = json.loads(path.read_text())
        if old['dataset'] not in (dataset, None):
            raise InputError(
                f'{path}: this run was trained on another dataset, {old["data_dir"]}; found {data_dir}. '
                'Give that --data_dir, or another --workdir.'
            )
        before = old.get('left_out', [])
        if before != left_out:
            tell(f'{path}: until now the run left out {before}, from now on {left_out}: other batches')
    write_json(workdir / 'config.json', config.to_dict())
    write_json(path, {'data_dir': str(data_dir), 'dataset': dataset, 'left_out': left_out})


def read_config(workdir: str | Path) -> ConfigDict:
    """The config that a workdir was trained with; a key that is younger than the workdir is switched off."""
    path = Path(workdir) / 'config.json'
    if not path.exists():
        raise FileNotFoundError(
            f'{path}: expected a workdir written by `python -m launch.train --workdir={workdir}`, found no config.json'
        )
    stored = _tuples(json.loads(path.read_text()))
    later = LATER_KEYS | {'model': LATER_MODEL_KEYS.get(stored['model'].get('encoder'), {})}
    return ConfigDict(stored | {group: values | stored[group] for group, values in later.items() if group in stored})


def import_checkpoint(path: str | Path, config: ConfigDict, workdir: str | Path, *, optimizer: bool = True) -> int:
    """Make a workdir of a file of the official implementation; returns the step at which training would go on.

    path: `.pt` (both formats of torch) or `.safetensors`. With `optimizer` the state of Adam in the file is taken over,
    where there is one. Everything is read and checked before anything is written. Raises FileNotFoundError and ValueError
    that name the file: for one that is damaged, not safe to read, or of another network than `config` describes, and
    for a workdir that holds checkpoints.
    """
    workdir = Path(workdir)
    check_workdir(workdir, config)
    if has_checkpoints(workdir):
        raise InputError(f'{workdir}: expected a new workdir, found checkpoints in it; choose another --workdir')
    models.build(config)  # is the config sound?
    stored = read_torch_file(path)
    try:
        state, rest = official.split_checkpoint(stored)
        params = jax.tree.map(jnp.asarray, official.from_state_dict(state, config))
        opt_state = make_optimizer(config, config.train.num_steps).init(params['params'])
        if optimizer and 'optimizer' in rest:
            opt_state = official.from_adam(rest['optimizer'], state, opt_state, config)
        step = rest.get('it', 0)
        if not isinstance(step, int) or not 0 <= step < 2**31:
            raise InputError(f"'it': expected a number of steps, found {step!r}")
    except ValueError as error:
        raise InputError(f'{path}: {error}') from error
    train_state = TrainState(jnp.asarray(step, jnp.int32), params, jax.tree.map(jnp.asarray, opt_state))
    train_state = begin_average(train_state, config.optim.ema_decay)
    write_json(workdir / 'config.json', config.to_dict())
    with open_checkpoints(workdir) as checkpointer:
        checkpointer.save(step, train_state)
    return step


class Run(NamedTuple):
    """A trained workdir."""

    config: ConfigDict  # its eval.threshold is the one that meshes are made at
    method: models.Method
    params: dict  # of the best checkpoint in validation; their average where the run made one
    step: int  # of that checkpoint
    data_dir: Path | None  # the dataset it was trained on; None where that is not known
    threshold_from: str = 'config'  # where the threshold is from


def load_run(workdir: str | Path) -> Run:
    """Everything that evaluation and reconstruction need, at the threshold that was chosen for the checkpoint, if any.

    Raises FileNotFoundError without config or checkpoint, ValueError for a damaged calibration and where every checkpoint is
    damaged.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    with read_checkpoints(workdir) as checkpointer:
        step = best_step(checkpointer)
        # On the first device, whatever devices it was saved from.
        place = SingleDeviceSharding(jax.devices()[0])
        stored = checkpointer.metadata(step).metadata
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), stored)
        state = checkpointer.load(step, abstract)
        params = state.get('average', state['params'])  # as `state.chosen_params`
    path = workdir / 'run.json'
    data_dir = json.loads(path.read_text())['data_dir'] if path.exists() else None
    run = Run(config, build_method(config), params, step, data_dir and Path(data_dir))

    calibration = read_calibration(workdir)
    if calibration is None:
        return run
    if calibration.step != step:
        print(
            f'{workdir / "calibration.json"}: chosen for the checkpoint of step {calibration.step}, not for step {step}: '
            f'ignored, the threshold is {config.eval.threshold} of the config (launch.evaluate --calibrate chooses anew)',
            flush=True,
        )
        return run
    return at_threshold(run, calibration.threshold, f'calibration on {calibration.split}')


def at_threshold(run: Run, threshold: float, threshold_from: str) -> Run:
    """The run with another threshold, a probability. Raises ValueError for one that is none."""
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.threshold = threshold
    return run._replace(config=config, method=build_method(config), threshold_from=threshold_from)


def at_resolution(run: Run, resolution: int) -> Run:
    """The run with a finest grid of `resolution` cells, 32 times a power of two."""
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.mesh.update(resolution=32, upsampling_steps=(resolution // 32).bit_length() - 1)
    return run._replace(config=config, method=build_method(config))


def calibrate_run(workdir: str | Path, run: Run, data_dir: str | Path) -> Run:
    """Choose the threshold on `config.eval.split` of a dataset and keep it in the workdir; the run at that threshold."""
    path = Path(workdir) / 'calibration.json'
    calibration = calibrate(run.params, read_config(workdir), data_dir, run.step)
    write_json(path, calibration._asdict())
    print(
        f'{path}: threshold {calibration.threshold} with IoU {calibration.iou:.4f} of the network on {calibration.split}; '
        f'at {calibration.default_threshold} of the config it is {calibration.default_iou:.4f}',
        flush=True,
    )
    return at_threshold(run, calibration.threshold, f'calibration on {calibration.split}')


def read_calibration(workdir: str | Path) -> Calibration | None:
    """What `calibrate_run` kept; None where it never ran. Raises ValueError for a damaged file."""
    path = Path(workdir) / 'calibration.json'
    if not path.exists():
        return None
    try:
        return Calibration(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f'{path}: expected what `python -m launch.evaluate --calibrate` writes, found another file ({error}); delete it '
            'and calibrate again'
        ) from error


def load(workdir: str | Path) -> tuple[OccupancyNetwork, dict]:
    """The trained network of a workdir: functions and weights are two values.

    Example: `model, params = onet_jax.load('runs/points')`. Raises FileNotFoundError as `load_run`.
    """
    run = load_run(workdir)
    return models.occupancy_network(run.config.model), run.params


def _flatten(tree: dict, prefix: str = '') -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat


def _tuples(tree):
    """JSON knows lists only; configs hold tuples."""
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree
