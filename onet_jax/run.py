"""A trained workdir, and what evaluation and inference need of it: `load`, `load_run`."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import has_cloud, input_names, sees_clips
from onet_jax.errors import InputError
from onet_jax.evaluation.calibrate import Calibration, calibrate
from onet_jax.files import write_json
from onet_jax.json_files import COUNT, NUMBER, PROBABILITY, TEXT, read_json
from onet_jax.models.method import Model
from onet_jax.progress import working
from onet_jax.scores import METRICS
from onet_jax.training.checkpoints import load_best, read_config, read_run
from onet_jax.training.portable import find_workdir, is_portable, name_of, write_weights

CALIBRATION = {
    'threshold': PROBABILITY, 'iou': NUMBER, 'default_threshold': PROBABILITY, 'default_iou': NUMBER,
    'split': TEXT, 'num_shapes': COUNT, 'dataset': TEXT, 'step': COUNT,
}  # fmt: skip


class Run(NamedTuple):
    """A trained workdir."""

    workdir: Path
    config: ConfigDict  # its eval.threshold is the one that meshes are made at
    method: models.Method
    params: dict  # of the best checkpoint in validation; their exponential moving average where the run kept one
    step: int  # of that checkpoint
    metrics: dict[str, float]  # its means over the validation split; {} where it was not validated
    data_dir: Path | None  # the dataset it was trained on; None where that is not known
    threshold_from: str = 'config'  # what set the threshold: 'config', 'calibration on val' or a flag


def load(workdir: str | Path) -> tuple[Model, dict]:
    """The trained network of a workdir, or of weights that `find_workdir` finds: its functions and its weights.

    Example: `model, params = onet_jax.load('runs/points')`. Raises FileNotFoundError and InputError as `load_run`.
    """
    run = load_run(workdir)
    return run.method.model, run.params


def load_run(workdir: str | Path) -> Run:
    """Everything that evaluation and inference need, at the calibrated threshold of the checkpoint where there is one.

    A run that saves there meanwhile is no hindrance. Raises FileNotFoundError without config or checkpoint, InputError for
    damaged files and where every checkpoint is damaged.
    """
    workdir = find_workdir(workdir)
    config = read_config(workdir)
    method = models.build(config)
    data_dir = Path(read_run(workdir)['data_dir']) if (workdir / 'run.json').exists() else None
    with working(f'loading the network of {workdir}'):
        step, state, metrics = load_best(workdir)
    params = state.get('average', state['variables'])  # as `state.chosen_variables`
    run = Run(workdir, config, method, params, step, metrics, data_dir)

    calibration = read_calibration(workdir)
    if calibration is None:
        return run
    if calibration.step != step:
        print(
            f'{workdir / "calibration.json"}: chosen for the checkpoint of step {calibration.step}, not for step {step}: '
            f'ignored, the threshold is {config.eval.threshold} of the config (onet evaluate --calibrate chooses anew)',
            flush=True,
        )
        return run
    return at_threshold(run, calibration.threshold, f'calibration on {calibration.split}')


def describe_training(run: Run) -> str:
    """How long a network was trained, and how well it does on the validation split, in a sentence."""
    name = run.config.eval.select_by
    if name not in run.metrics:
        return f'Trained for {run.step:,} steps.'
    metric = METRICS[name]
    return f'Validation {metric.title} {metric.factor * run.metrics[name]:.3f} after {run.step:,} steps.'


def change(run: Run, group: str, **values: object) -> Run:
    """The run with other values in a group of its config. Raises InputError for a key that is not in the group."""
    config = run.config.copy_and_resolve_references()
    unknown = [key for key in values if key not in config[group]]
    if unknown:
        raise InputError(
            f'config.{group}.{unknown[0]}: expected a method that has it, found {config.model.name} without it '
            f'(its keys are {sorted(config[group])})'
        )
    with config.unlocked():
        config[group].update(values)
    return run._replace(config=config, method=models.build(config))


def at_threshold(run: Run, threshold: float, threshold_from: str) -> Run:
    """The run with another threshold, a probability. Raises InputError unless 0 < threshold < 1."""
    return change(run, 'eval', threshold=threshold)._replace(threshold_from=threshold_from)


def at_resolution(run: Run, resolution: int) -> Run:
    """The run with a finest grid of `resolution` cells, 32 times a power of two."""
    return change(run, 'mesh', resolution=32, upsampling_steps=(resolution // 32).bit_length() - 1)


def for_clouds(
    run: Run,
    *,
    cell: float | None = None,
    keep_outliers: bool = False,
    remove_outliers: bool = False,
    up: str | None = None,
) -> Run:
    """The run for clouds of a user. cell: edge of a cell of a scene, in the unit of the cloud. keep_outliers,
    remove_outliers: as of `load_bulk`.

    up: the axis that points up, 'x', 'y' or 'z', or 'auto', which finds it; by default 'auto' for a network that was trained in
    all poses, else 'y'.

    Raises InputError for what a network of other inputs does not have.
    """
    if cell is not None and 'scan_cell' not in run.config.data:
        raise InputError(
            f'--cell: expected a network of scenes, found one of {", ".join(input_names(run.config.data))}'
        )
    if cell is not None:
        run = change(run, 'data', scan_cell=cell)
    if keep_outliers:
        run = change(run, 'data', keep_outliers=True)
    if up is None:
        up = 'auto' if run.config.data.get('random_scans') else 'y'
    asked = ({'up': up} if up != 'y' else {}) | ({'remove_outliers': True} if remove_outliers else {})
    if not asked:
        return run
    if not (has_cloud(run.config.data) or (sees_clips(run.config.data) and not remove_outliers)):
        names = ', '.join(input_names(run.config.data))
        raise InputError(f'--{next(iter(asked))}: expected a network of point clouds, found one of {names}')
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.update(asked)
    return run._replace(config=config, method=models.build(config))


def evaluation_folder(run: Run) -> Path:
    """Where evaluations are written: in the workdir; of weights that travel, whose folder stays as it is, in this folder."""
    return Path(f'evaluation_of_{name_of(run.workdir)}') if is_portable(run.workdir) else run.workdir / 'evaluation'


def calibrate_run(run: Run, data_dir: str | Path) -> Run:
    """Calibrate: choose the threshold on `config.eval.split` of a dataset, write it to the workdir, return the run at it."""
    path = run.workdir / 'calibration.json'
    if is_portable(run.workdir):
        raise InputError(
            f'{run.workdir}: expected a workdir to calibrate, found weights that travel; give them --threshold'
        )
    calibration = calibrate(run.method.model, run.params, read_config(run.workdir), open_dataset(data_dir), run.step)
    print(
        f'{path}: threshold {calibration.threshold} with IoU {calibration.iou:.4f} of the network on {calibration.split}; '
        f'at {calibration.default_threshold} of the config it is {calibration.default_iou:.4f}',
        flush=True,
    )
    write_json(path, calibration._asdict())
    return at_threshold(run, calibration.threshold, f'calibration on {calibration.split}')


def read_calibration(workdir: str | Path) -> Calibration | None:
    """What `calibrate_run` wrote; None where it never ran. Raises InputError for a damaged file."""
    path = Path(workdir) / 'calibration.json'
    if not path.exists():
        return None
    content = read_json(path, CALIBRATION, 'delete it and calibrate again by `onet evaluate --calibrate`')
    return Calibration(*(content[key] for key in Calibration._fields))


def export_weights(run: Run, folder: str | Path) -> None:
    """Write the network of a run as a folder of weights that travel (see `training/portable.py`), at the threshold of the run.

    Raises InputError for a folder that has files.
    """
    domain, config = run.workdir / 'domain.npz', run.config.copy_and_resolve_references()
    with config.unlocked():
        config.train.update(init_from='', init_modules=())  # a path of whoever trained it
    write_weights(folder, config, run.step, run.params, run.metrics, domain.read_bytes() if domain.exists() else None)
