"""One step of training, written once for "my part of the batch"; `parallel.py` decides what a part is."""

from collections.abc import Callable

import jax
import optax

from onet_jax.models.method import Method
from onet_jax.training.state import AveragedState, TrainState, update_average


def make_train_step(
    method: Method,
    tx: optax.GradientTransformation,
    transform: Callable,
    axis_name: str | None = None,
    ema_decay: float = 0.0,
) -> Callable:
    """step(state, raw, key) -> (state, scalars).

    raw: rows of a training batch as a feed delivers them; key: the key of the run, from which the step draws its own.
    scalars: 'loss' and the terms that the method names, averaged over the whole batch. With `axis_name` the rows are one
    device's share and all devices return the same values. ema_decay: of the average of a state that has one.
    """

    def step(state: TrainState | AveragedState, raw: dict, key: jax.Array) -> tuple[TrainState | AveragedState, dict]:
        data_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = transform(data_key, raw)

        def loss_of(trainable):
            return method.loss({**state.params, 'params': trainable}, batch, loss_key, axis_name)

        (loss, aux), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params['params'])
        scalars = {'loss': loss, **aux.scalars}
        if axis_name is not None:
            scalars, grads = jax.lax.pmean((scalars, grads), axis_name)
        updates, opt_state = tx.update(grads, state.opt_state, state.params['params'])
        params = {'params': optax.apply_updates(state.params['params'], updates), 'batch_stats': aux.batch_stats}
        state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        if isinstance(state, AveragedState):
            state = state._replace(average=update_average(state.average, params, state.step, ema_decay))
        return state, scalars

    return step
