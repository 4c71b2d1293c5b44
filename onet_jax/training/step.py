"""One step of training, written once for "my part of the batch"; `parallel.py` decides what a part is."""

from collections.abc import Callable

import jax
import optax

from onet_jax.models.method import Method
from onet_jax.training.state import TrainState


def make_train_step(
    method: Method, tx: optax.GradientTransformation, transform: Callable, axis_name: str | None = None
) -> Callable:
    """step(state, raw, key) -> (state, scalars).

    raw: rows of a training batch as a feed delivers them; key: the key of the run, from which the step draws its own.
    scalars: 'loss' and the terms that the method names, averaged over the whole batch. With `axis_name` the rows are one
    device's share and all devices return the same values.
    """

    def step(state: TrainState, raw: dict, key: jax.Array) -> tuple[TrainState, dict]:
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
        return TrainState(state.step + 1, params, opt_state), scalars

    return step
