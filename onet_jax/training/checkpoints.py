"""Checkpoints of a workdir (orbax): the latest one and the best one by validation IoU.

WORKDIR/config.json     the resolved config          WORKDIR/run.json     data_dir and versions
WORKDIR/checkpoints/STEP                             log.jsonl, tensorboard/
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from onet_jax import models
from onet_jax.data.records import write_json
from onet_jax.training.state import TrainState


def open_checkpoints(workdir: str | Path) -> ocp.training.Checkpointer:
    """The checkpoints of a workdir, keeping the latest and the one with the highest metric 'iou'."""
    policies = ocp.training.preservation_policies
    best = policies.BestN(get_metric_fn=lambda m: m['iou'], n=1, keep_checkpoints_without_metrics=False)
    directory = Path(workdir).absolute() / 'checkpoints'
    directory.mkdir(parents=True, exist_ok=True)
    return ocp.training.Checkpointer(
        directory,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
        cleanup_tmp_directories=True,
    )


def restore(checkpointer: ocp.training.Checkpointer, like: TrainState, step: int) -> TrainState:
    """The state of checkpoint `step`, with the shapes, types and placement of `like`."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return checkpointer.load(step, abstract)


def best_step(checkpointer: ocp.training.Checkpointer) -> int:
    """The step of the best checkpoint by validation IoU; the latest where none was validated."""
    found = list(checkpointer.checkpoints)
    if not found:
        raise FileNotFoundError(
            f'{checkpointer.directory}: expected at least one checkpoint, found none; train first with '
            f'`python -m launch.train --config=... --workdir={checkpointer.directory.parent}`'
        )
    validated = [c for c in found if c.metrics]
    return max(validated, key=lambda c: c.metrics['iou']).step if validated else found[-1].step


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Store the config in the workdir; a workdir of another config is refused with the differences."""
    path = workdir / 'config.json'
    if not path.exists():
        write_json(path, config.to_dict())
        return
    old, new = _flatten(read_config(workdir).to_dict()), _flatten(config.to_dict())
    changed = [
        f'  config.{key}: {old.get(key, "(absent)")!r} in the workdir, {new.get(key, "(absent)")!r} asked for'
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise ValueError(
            f'{path}: this workdir belongs to another config:\n' + '\n'.join(changed) + '\n'
            'Use another --workdir, or give the old values to go on with this run.'
        )


def read_config(workdir: str | Path) -> ConfigDict:
    """The config that a workdir was trained with."""
    path = Path(workdir) / 'config.json'
    if not path.exists():
        raise FileNotFoundError(
            f'{path}: expected a workdir written by `python -m launch.train --workdir={workdir}`, found no config.json'
        )
    return ConfigDict(_tuples(json.loads(path.read_text())))


class Run(NamedTuple):
    """A trained workdir."""

    config: ConfigDict
    method: models.Method
    params: dict  # of the best checkpoint by validation IoU
    step: int  # of that checkpoint
    data_dir: Path  # the dataset it was trained on


def load_run(workdir: str | Path) -> Run:
    """Everything that evaluation and reconstruction need. Raises FileNotFoundError without config or checkpoint."""
    workdir = Path(workdir)
    config = read_config(workdir)
    with open_checkpoints(workdir) as checkpointer:
        step = best_step(checkpointer)
        # On the first device, whatever devices it was saved from.
        place = SingleDeviceSharding(jax.devices()[0])
        stored = checkpointer.metadata(step).metadata
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), stored)
        params = checkpointer.load(step, abstract)['params']
    data_dir = Path(json.loads((workdir / 'run.json').read_text())['data_dir'])
    return Run(config, models.build(config), params, step, data_dir)


def load(workdir: str | Path) -> tuple[models.onet.OccupancyNetwork, dict]:
    """The trained network of a workdir: functions and weights are two values.

    Example: `model, params = onet_jax.load('runs/points')`. Raises FileNotFoundError as `load_run`.
    """
    run = load_run(workdir)
    return models.onet.occupancy_network(run.config.model), run.params


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
