"""The training loop, from top to bottom: data, model, state, restore, step, validate, save."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.datasets import Shapes, open_dataset
from onet_jax.data.feeds import FEEDS
from onet_jax.data.fields import make_transform
from onet_jax.errors import InputError
from onet_jax.evaluation.validate import unreadable_examples, validate
from onet_jax.parallel import is_first_process, make_parallel, tell
from onet_jax.prepare.embedded import embedded_dataset
from onet_jax.progress import track, working
from onet_jax.scores import METRICS
from onet_jax.training import checkpoints, faults
from onet_jax.training.initial_weights import read_initial_weights, start_from
from onet_jax.training.log import NoLog, RunLog, banner
from onet_jax.training.optim import learning_rate_of, make_optimizer
from onet_jax.training.preview import make_preview
from onet_jax.training.profile import traced
from onet_jax.training.state import AveragedState, TrainState, chosen_variables, create_state
from onet_jax.training.step import make_train_step
from onet_jax.viz.display import Shown


def train(
    config: ConfigDict,
    workdir: str | Path,
    data_dir: str | Path | None = None,
    *,
    profile: bool = False,
    accept_changes: bool = False,
    max_bad_examples: int = 0,
    show: Callable[[Shown], None] | None = None,
) -> TrainState | AveragedState:
    """Train `config` in `workdir`, resuming from the latest checkpoint where there is one; returns the last state.

    Without `data_dir` the embedded dataset of `config.data` is built once and cached. Batches, noise and initial
    weights are functions of config.seed and the step alone: on a CPU a resumed run equals an uninterrupted one bit for
    bit. With `profile` a trace of a few steps is written to the workdir. SIGTERM and control-C save once and raise
    SystemExit(faults.EXIT_STOPPED). At most `max_bad_examples` shapes that cannot be read are left out. `show` is called with
    the latest reconstructions, every `config.eval.render_every_steps`, or where that is 0 with each validation. Raises
    FloatingPointError when the loss is not finite; InputError for a workdir of another config, unless `accept_changes`, and
    for one in which another run trains; OSError where a checkpoint cannot be written.

    With several processes (`parallel.start_processes`), each calls this with the same arguments, a shared workdir and the same
    dataset. All stop and fail together; process 0 writes the files and prints.
    """
    tell(banner(config.train.dtype))
    workdir = Path(workdir)
    # Wrong input is found before the first step, and before anything is written to the workdir.
    checkpoints.check_workdir(workdir, config, accept_changes=accept_changes)
    _check_settings(config)
    method, transform = models.build(config), make_transform(config.data)
    tx = make_optimizer(config, config.train.num_steps)
    parallel = make_parallel(config.train.backend, config.train.batch_size)

    weights = None if checkpoints.has_checkpoints(workdir) else read_initial_weights(config, method)
    dataset = open_dataset(Path(data_dir or embedded_dataset(config.data)).absolute())
    _check_dataset(config, dataset)
    bad_examples = BadExamples(max_bad_examples)
    feed = dataset.feed(
        config.data,
        batch_size=config.train.batch_size,
        seed=config.seed,
        rows=parallel.rows,
        bad_examples=bad_examples,
    )
    left_out = unreadable_examples(dataset, config.eval.split, bad_examples)
    render_every_steps = config.eval.render_every_steps or (config.train.eval_every_steps if show else 0)
    draw = make_preview(method, config, dataset, left_out) if render_every_steps and is_first_process() else None
    ema_decay = config.optim.ema_decay
    make_step = method.make_step or make_train_step
    step_fn = parallel.compile(make_step(method, tx, transform, parallel.axis_name, ema_decay))
    metrics = jax.jit(method.metrics)
    num_validated = len(dataset.examples(config, config.eval.split, left_out))
    num_batches = -(-num_validated // config.eval.batch_size)

    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    example = jax.tree.map(lambda rows: rows[:2], next(feed(0)))
    with working('initialising the weights'):
        shapes = jax.eval_shape(transform, train_key, example)
        batch = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        # A program that runs once: on a CPU LLVM would optimise its many draws for longer than the rest of the start takes.
        options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
        create = partial(create_state, method=method, tx=tx, ema_decay=ema_decay)
        state = jax.jit(create, compiler_options=options)(init_key, batch=batch)
    if weights is not None:
        state = state._replace(variables=start_from(state.variables, weights))
    with working('checking the metrics of the validation'):
        batch, _ = next(dataset.evaluation_batches(config, config.eval.split, batch_size=1, left_out=left_out))
        _check_selector(config, jax.eval_shape(metrics, state.variables, batch))
    state = parallel.replicate(state)
    train_key = parallel.replicate(train_key)

    with (
        faults.locked(workdir),
        faults.stop_requests() as stop_asked,
        checkpoints.open_checkpoints(workdir) as checkpointer,
        closing(RunLog(workdir, config.train.num_steps) if is_first_process() else NoLog()) as log,
        working('training', config.train.num_steps, 'steps') as training,
    ):
        saved = checkpointer.latest
        if saved is not None:
            state = checkpoints.restore(checkpointer, state, saved.step)
            tell(f'resuming at step {saved.step} of {workdir}')
        checkpoints.claim_workdir(workdir, config, dataset.data_dir, bad_examples.reasons)
        start, stop = int(state.step), config.train.num_steps
        if start >= stop:
            tell(f'nothing to do: step {start} of config.train.num_steps={stop}')
        if profile and is_first_process():
            step_fn = traced(step_fn, workdir / 'profile', stop - start)
        batches = feed(start)
        losses: list[jax.Array] = []
        log.start(start)
        training.resume(start)
        for step in range(start + 1, stop + 1):
            if len(losses) > 1:
                # At most one step ahead of the device, so that the time below is spent waiting for data only.
                losses[-2].block_until_ready()
            began = time.monotonic()
            raw = parallel.shard(next(batches))
            log.waited(time.monotonic() - began)
            if step == start + 1:
                began = time.monotonic()
                with working('compiling the training step, for the first time about a minute'):
                    state, scalars = jax.block_until_ready(step_fn(state, raw, train_key))
                log.compiled(time.monotonic() - began)
            else:
                state, scalars = step_fn(state, raw, train_key)
            training.advance()
            losses.append(scalars['loss'])

            last, stops = step == stop, stop_asked()
            logs = last or step % config.train.log_every_steps == 0
            validates = last or step % config.train.eval_every_steps == 0
            saves = last or stops or validates or step % config.train.checkpoint_every_steps == 0
            renders = render_every_steps > 0 and (last or step % render_every_steps == 0)
            if logs or saves or renders:
                faults.check_finite(losses, state, step, checkpointer, workdir, feed, dataset)
                if logs:
                    means = {
                        'loss': float(np.mean(jax.device_get(losses))),
                        'learning_rate': learning_rate_of(config, step),
                    }
                    log.train(step, {**jax.tree.map(float, scalars), **means}, training.eta())
                if logs or saves:
                    losses = []
            began = time.monotonic()
            means = None
            if validates:
                examples = dataset.evaluation_batches(config, config.eval.split, left_out=left_out)
                batches_of_split = (batch for batch, _ in track(examples, 'validating', 'batches', num_batches))
                means = validate(metrics, parallel.local(chosen_variables(state)), batches_of_split)
                means['score'] = checkpoints.score(config, means)
                log.validation(step, means, config.eval.select_by)
                tell(f'step {step}/{stop}  validation: ' + '  '.join(f'{k} {v:.4f}' for k, v in means.items()))
            if saves:
                checkpointer.save(step, state, metrics=means)
            if renders and draw is not None:
                picture = workdir / 'images' / f'{step:08d}.png'
                shown = draw(parallel.local(chosen_variables(state)), picture)
                log.picture(step, picture)
                if show is not None:
                    show(shown._replace(caption=f'step {step} of {stop}'))
            if stops and not last:
                tell(f'stopped and saved at step {step}; the same command goes on')
                raise SystemExit(faults.EXIT_STOPPED)
            log.resume_clock(time.monotonic() - began)
            training.skip(time.monotonic() - began)
    return state


def _check_settings(config: ConfigDict) -> None:
    """Raises InputError for an unknown feed, and for numbers of steps and batch sizes below 1."""
    if config.data.feed not in FEEDS:
        raise InputError(f'config.data.feed: expected one of {sorted(FEEDS)}, found {config.data.feed!r}')
    counts = ('num_steps', 'batch_size', 'log_every_steps', 'eval_every_steps', 'checkpoint_every_steps')
    for key, value in [(f'train.{name}', config.train[name]) for name in counts] + [
        ('eval.batch_size', config.eval.batch_size)
    ]:
        if value < 1:
            raise InputError(f'config.{key}: expected at least 1, found {value}')
    if config.eval.render_every_steps < 0:
        found = config.eval.render_every_steps
        raise InputError(f'config.eval.render_every_steps: expected a number of steps, or 0 for never, found {found}')


def _check_selector(config: ConfigDict, measured: dict) -> None:
    """Raises InputError where `config.eval.select_by` is not one of the validation metrics."""
    known = sorted(METRICS.keys() & measured.keys())
    if config.eval.select_by not in known:
        raise InputError(f'config.eval.select_by: expected one of {known}, found {config.eval.select_by!r}')


def _check_dataset(config: ConfigDict, dataset: Shapes) -> None:
    """Raises InputError for a dataset whose splits, sampling or number of shapes are not those of the config."""
    dataset.names(config.eval.split)
    sampling, num_shapes = dataset.index.source.get('sampling', 'uniform'), len(dataset.names('train'))
    if config.data.get('sampling', 'uniform') != sampling:
        raise InputError(
            f'config.data.sampling: expected {sampling!r}, how {dataset.data_dir} was sampled, found '
            f'{config.data.sampling!r}; prepare another dataset with --sampling={config.data.sampling}'
        )
    if config.model.get('num_shapes', num_shapes) != num_shapes:
        raise InputError(
            f'config.model.num_shapes: expected {num_shapes}, the training shapes of {dataset.data_dir}, '
            f'found {config.model.num_shapes}'
        )
