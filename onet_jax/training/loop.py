"""Training, read from top to bottom: data, model, state, restore, step, validate, save."""

import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.convert import official
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.data.feeds import FEEDS, open_feed
from onet_jax.data.prepare import embedded_dataset
from onet_jax.data.records import read_index, split_shapes
from onet_jax.data.transforms import make_transform
from onet_jax.evaluation.validate import validate, validation_batches
from onet_jax.parallel import make_parallel
from onet_jax.training import checkpoints
from onet_jax.training.log import RunLog, banner
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import TrainState, create_state
from onet_jax.training.step import make_train_step


def train(config: ConfigDict, workdir: str | Path, data_dir: str | Path | None = None) -> TrainState:
    """Train `config` in `workdir`, going on from the latest checkpoint where there is one; returns the last state.

    Without `data_dir` the embedded dataset of `config.data` is built once and cached. Batches, noise and initial
    weights are functions of config.seed and the step alone: on a CPU a resumed run equals an uninterrupted one bit for
    bit. Raises FloatingPointError when the loss is not finite, ValueError for a workdir of another config.
    """
    print(banner(), flush=True)
    workdir = Path(workdir)
    # Whatever can be wrong is found before the first step, and before the workdir is touched.
    checkpoints.check_workdir(workdir, config)
    _check_settings(config)
    method, transform = models.build(config), make_transform(config.data)
    tx = make_optimizer(config, config.train.num_steps)
    parallel = make_parallel(config.train.backend, config.train.batch_size)

    trunk = _read_trunk(config) if not checkpoints.has_checkpoints(workdir) else None
    data_dir = Path(data_dir or embedded_dataset(config.data)).absolute()
    _check_dataset(config, data_dir)
    feed = open_feed(config.data.feed, data_dir, batch_size=config.train.batch_size, seed=config.seed)
    checkpoints.claim_workdir(workdir, config, data_dir)
    step_fn = parallel.compile(make_train_step(method, tx, transform, parallel.axis_name))
    metrics = jax.jit(method.metrics)

    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    example = jax.tree.map(lambda rows: rows[:2], next(feed.batches(0)))
    state = create_state(init_key, method, tx, transform(train_key, example))
    if trunk is not None:
        state = state._replace(params=official.init_trunk(state.params, trunk, config))
    state = parallel.replicate(state)
    train_key = parallel.replicate(train_key)

    with checkpoints.open_checkpoints(workdir) as checkpointer, closing(RunLog(workdir, config.train.num_steps)) as log:
        saved = checkpointer.latest
        if saved is not None:
            state = checkpoints.restore(checkpointer, state, saved.step)
            print(f'resuming at step {saved.step} of {workdir}', flush=True)
        start, stop = int(state.step), config.train.num_steps
        if start >= stop:
            print(f'nothing to do: step {start} of config.train.num_steps={stop}', flush=True)
        batches, losses = feed.batches(start), []
        log.start(start)
        for step in range(start + 1, stop + 1):
            if len(losses) > 1:
                # At most one step ahead of the device, so that the time below is spent waiting for data only.
                losses[-2].block_until_ready()
            began = time.monotonic()
            raw = parallel.shard(next(batches))
            log.waited(time.monotonic() - began)
            state, scalars = step_fn(state, raw, train_key)
            losses.append(scalars['loss'])

            last = step == stop
            logs = last or step % config.train.log_every_steps == 0
            validates = last or step % config.train.eval_every_steps == 0
            saves = last or validates or step % config.train.checkpoint_every_steps == 0
            if logs or saves:
                _check_finite(losses, state, step, checkpointer, workdir)
                if logs:
                    log.train(step, {**jax.tree.map(float, scalars), 'loss': float(np.mean(jax.device_get(losses)))})
                losses = []
            began = time.monotonic()
            means = None
            if validates:
                means = validate(metrics, state.params, validation_batches(config, data_dir, config.eval.split))
                means['score'] = checkpoints.score(config, means)
                log.validation(step, means)
                print(
                    f'step {step}/{stop}  validation: ' + '  '.join(f'{k} {v:.4f}' for k, v in means.items()),
                    flush=True,
                )
            if saves:
                checkpointer.save(step, state, metrics=means, force=True)
            log.resume_clock(time.monotonic() - began)
    return state


def _check_settings(config: ConfigDict) -> None:
    """Of the groups `train`, `data` and `eval`. Raises ValueError for a number that is no number of anything."""
    if config.data.feed not in FEEDS:
        raise ValueError(f'config.data.feed: expected one of {sorted(FEEDS)}, found {config.data.feed!r}')
    counts = ('num_steps', 'batch_size', 'log_every_steps', 'eval_every_steps', 'checkpoint_every_steps')
    for key, value in [(f'train.{name}', config.train[name]) for name in counts] + [
        ('eval.batch_size', config.eval.batch_size)
    ]:
        if value < 1:
            raise ValueError(f'config.{key}: expected at least 1, found {value}')
    if config.eval.select_by not in checkpoints.SELECTORS:
        known = sorted(checkpoints.SELECTORS)
        raise ValueError(f'config.eval.select_by: expected one of {known}, found {config.eval.select_by!r}')


def _check_dataset(config: ConfigDict, data_dir: Path) -> None:
    """Raises ValueError for a dataset that is not the one that the config speaks of."""
    index = read_index(data_dir)
    split_shapes(data_dir, index, config.eval.split)
    sampling, num_shapes = index.source.get('sampling', 'uniform'), len(split_shapes(data_dir, index, 'train'))
    if config.data.sampling != sampling:
        raise ValueError(
            f'config.data.sampling: expected {sampling!r}, how {data_dir} was sampled, found {config.data.sampling!r}; '
            f'prepare another dataset with --sampling={config.data.sampling}'
        )
    if config.model.get('num_shapes', num_shapes) != num_shapes:
        raise ValueError(
            f'config.model.num_shapes: expected {num_shapes}, the training shapes of {data_dir}, '
            f'found {config.model.num_shapes}'
        )


def _read_trunk(config: ConfigDict) -> dict | None:
    """The weights of `config.model.encoder_init`, known to fit; None where it names no file. Raises ValueError."""
    path = config.model.get('encoder_init')
    if not path:
        return None
    trunk, _ = official.split_checkpoint(read_torch_file(path))
    try:
        official.init_trunk(official.variable_shapes(config), trunk, config)
    except ValueError as error:
        raise ValueError(f'config.model.encoder_init: {path}: {error}') from error
    return trunk


@jax.jit
def _all_finite(tree) -> jax.Array:
    return jax.tree.reduce(lambda ok, x: ok & jax.numpy.isfinite(x).all(), tree, True)


def _check_finite(losses: list[jax.Array], state: TrainState, step: int, checkpointer, workdir: Path) -> None:
    """The loss of every step since the last check, and the weights: a run that diverged must not replace a good
    checkpoint."""
    finite = np.isfinite(jax.device_get(losses))
    if finite.all() and _all_finite(state.params):
        return
    what = f'the weights of step {step} are'
    if not finite.all():
        what = f'the loss of step {step - len(losses) + 1 + int(np.argmin(finite))} is'
    good = checkpointer.latest
    place = (
        f'the last good checkpoint is step {good.step} in {workdir}' if good else f'{workdir} holds no checkpoint yet'
    )
    raise FloatingPointError(f'{what} not finite; {place}. Try a lower config.optim.learning_rate in another workdir.')
