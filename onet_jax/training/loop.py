"""Training, read from top to bottom: data, model, state, restore, step, validate, save."""

import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.pipeline import tfds_feed
from onet_jax.data.prepare import embedded_dataset
from onet_jax.data.records import write_json
from onet_jax.data.resident import resident_feed
from onet_jax.data.transforms import make_transform
from onet_jax.evaluation.validate import validate, validation_batches
from onet_jax.parallel import make_parallel
from onet_jax.training import checkpoints
from onet_jax.training.log import RunLog, banner
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import TrainState, create_state
from onet_jax.training.step import make_train_step

FEEDS = {'tfds': tfds_feed, 'resident': resident_feed}


def train(config: ConfigDict, workdir: str | Path, data_dir: str | Path | None = None) -> TrainState:
    """Train `config` in `workdir`, going on from the latest checkpoint where there is one; returns the last state.

    Without `data_dir` the embedded dataset of `config.data` is built once and cached. Batches, noise and initial
    weights are functions of config.seed and the step alone: on a CPU a resumed run equals an uninterrupted one bit for
    bit. Raises FloatingPointError when the loss is not finite, ValueError for a workdir of another config.
    """
    print(banner(), flush=True)
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints.write_config(workdir, config)

    data_dir = Path(data_dir or embedded_dataset(config.data)).absolute()
    write_json(workdir / 'run.json', {'data_dir': str(data_dir)})
    if config.data.feed not in FEEDS:
        raise ValueError(f'config.data.feed: expected one of {sorted(FEEDS)}, found {config.data.feed!r}')
    feed = FEEDS[config.data.feed](data_dir, batch_size=config.train.batch_size, seed=config.seed)
    transform = make_transform(config.data)

    method = models.build(config)
    tx = make_optimizer(config, config.train.num_steps)
    parallel = make_parallel(config.train.backend, config.train.batch_size)
    step_fn = parallel.compile(make_train_step(method, tx, transform, parallel.axis_name))
    metrics = jax.jit(method.metrics)

    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    example = jax.tree.map(lambda rows: rows[:2], next(feed.batches(0)))
    state = parallel.replicate(create_state(init_key, method, tx, transform(train_key, example)))
    train_key = parallel.replicate(train_key)

    with checkpoints.open_checkpoints(workdir) as checkpointer, closing(RunLog(workdir, config.train.num_steps)) as log:
        saved = checkpointer.latest
        if saved is not None:
            state = checkpoints.restore(checkpointer, state, saved.step)
            print(f'resuming at step {saved.step} of {workdir}', flush=True)
        start, stop = int(state.step), config.train.num_steps
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
                _check_finite(losses, step, checkpointer, workdir)
                if logs:
                    log.train(step, {**jax.tree.map(float, scalars), 'loss': float(np.mean(jax.device_get(losses)))})
                losses = []
            began = time.monotonic()
            means = None
            if validates:
                means = validate(metrics, state.params, validation_batches(config, data_dir, 'val'))
                log.validation(step, means)
                print(
                    f'step {step}/{stop}  validation: ' + '  '.join(f'{k} {v:.4f}' for k, v in means.items()),
                    flush=True,
                )
            if saves:
                checkpointer.save(step, state, metrics=means, force=True)
            log.resume_clock(time.monotonic() - began)
    return state


def _check_finite(losses: list[jax.Array], step: int, checkpointer, workdir: Path) -> None:
    """The loss of every step since the last check; a run that diverged must not overwrite a good checkpoint."""
    finite = np.isfinite(jax.device_get(losses))
    if finite.all():
        return
    bad = step - len(losses) + 1 + int(np.argmin(finite))
    good = checkpointer.latest
    raise FloatingPointError(
        f'the loss of step {bad} is not finite; '
        + (
            f'the last good checkpoint is step {good.step} in {workdir}'
            if good
            else f'{workdir} holds no checkpoint yet'
        )
        + '. Try a lower config.optim.learning_rate.'
    )
