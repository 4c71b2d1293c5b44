"""The training step, written for one device's part of the batch; `parallel.py` runs it on all devices."""

from collections.abc import Callable

import jax
import optax

from onet_jax.models.method import Method
from onet_jax.networks.fast_gradients import reverse_mode
from onet_jax.training.state import AveragedState, TrainState


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    transform: Callable,
    axis_name: str | None = None,
    ema_decay: float = 0.0,
) -> Callable:
    """step(state, raw, key) -> (state, scalars).

    transform: (key, raw) -> batch, of `data.fields.make_transform`. raw: rows of a training batch as a feed delivers them.
    key: the key of the run, from which the step draws its own. scalars: 'loss' and the terms that the method names, means over
    the whole batch. With `axis_name` the rows are one device's part, and all devices return the same values. ema_decay: of the
    average of a state that has one.
    """

    def step(state: TrainState | AveragedState, raw: dict, key: jax.Array) -> tuple[TrainState | AveragedState, dict]:
        data_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = transform(data_key, raw)

        def loss_of(params):
            return method.loss({**state.variables, 'params': params}, batch, loss_key, axis_name)

        params = state.variables['params']
        with reverse_mode(True):
            (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        scalars = {'loss': loss, **aux.scalars}
        if axis_name is not None:
            scalars, grads = jax.lax.pmean((scalars, grads), axis_name)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        variables = {**state.variables, **aux.mutated, 'params': optax.apply_updates(params, updates)}
        return state.after_step(variables, opt_state, ema_decay), scalars

    return step
