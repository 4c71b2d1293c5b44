"""Adversarial training (Goodfellow et al., NIPS 2014): a generator and a discriminator that learn in turn, and their losses.

The discriminator is the module `DISCRIMINATOR` of a network, the generator all others. B pictures.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from onet_jax.errors import InputError
from onet_jax.models.method import Method
from onet_jax.networks.fast_gradients import reverse_mode

DISCRIMINATOR = 'discriminator'


def generator_loss(logits: jax.Array) -> jax.Array:
    """The non-saturating loss, elementwise: logits of generated pictures being real."""
    return jax.nn.softplus(-logits)


def discriminator_loss(real: jax.Array, generated: jax.Array) -> jax.Array:
    """Cross-entropy, elementwise, from the logits of being real."""
    return jax.nn.softplus(-real) + jax.nn.softplus(generated)


def with_penalty(judge: Callable, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
    """judge: [B, ...] -> logits [B] -> the logits of real pictures, and |the gradient of each by its picture|^2, [B].

    The R1 penalty (Mescheder et al., ICML 2018) is their mean, times a weight.
    """
    logits, pull_back = jax.vjp(judge, pictures)
    (gradients,) = pull_back(jnp.ones_like(logits))
    return logits, jnp.square(gradients).sum(axis=tuple(range(1, gradients.ndim)))


def make_adversarial_step(
    discriminator_loss: Callable,
    method: Method,
    tx: optax.GradientTransformation,
    transform: Callable,
    axis_name: str | None = None,
    ema_decay: float = 0.0,
) -> Callable:
    """The `Method.make_step` of a GAN, as `make_train_step` of `training/step.py`.

    First the generator learns from every second row of the batch by `method.loss`, then the discriminator from the other rows
    by discriminator_loss(variables, batch, key, axis_name), which sees the generator after its update. Each has an optimiser
    of its own: `opt_state` holds the moments of all weights, and those of the part that does not learn stay.
    """

    def step(state: Any, raw: dict, key: jax.Array) -> tuple[Any, dict]:
        params = state.variables['params']
        scalars: dict[str, jax.Array] = {}
        mutated: dict[str, Any] = {}
        zeros = jax.tree.map(jnp.zeros_like, params)

        def differentiate(loss_of, number, params):
            """The gradient of a loss on every second row."""
            data_key, loss_key = jax.random.split(jax.random.fold_in(step_key, number))
            batch = transform(data_key, jax.tree.map(lambda rows: _every_second(rows, number), raw))
            variables = {**state.variables, **mutated}
            with reverse_mode(True):
                (loss, aux), grads = jax.value_and_grad(
                    lambda params: loss_of({**variables, 'params': params}, batch, loss_key, axis_name), has_aux=True
                )(params)
            scalars.update({'loss': loss} if number == 0 else {}, **aux.scalars)
            mutated.update(aux.mutated)
            return grads if axis_name is None else jax.lax.pmean(grads, axis_name)

        step_key = jax.random.fold_in(key, state.step)
        grads = merge(zeros, differentiate(method.loss, 0, params))
        updates, generator_state = tx.update(grads, state.opt_state, params)
        params = merge(params, optax.apply_updates(params, updates))
        grads = merge(differentiate(discriminator_loss, 1, params), zeros)
        updates, discriminator_state = tx.update(grads, state.opt_state, params)
        params = merge(optax.apply_updates(params, updates), params)
        variables = {**state.variables, **mutated, 'params': params}
        opt_state = merge(discriminator_state, generator_state)
        scalars = scalars if axis_name is None else jax.lax.pmean(scalars, axis_name)
        return state.after_step(variables, opt_state, ema_decay), scalars

    return step


def merge(discriminator: Any, generator: Any) -> Any:
    """A tree of the weights, or of an optimiser's moments of them: those of the discriminator from one, all others from the
    other."""

    def choose(path, of_discriminator, of_generator):
        is_discriminator = any(getattr(key, 'key', None) == DISCRIMINATOR for key in path)
        return of_discriminator if is_discriminator else of_generator

    return jax.tree_util.tree_map_with_path(choose, discriminator, generator)


def _every_second(rows: jax.Array, first: int) -> jax.Array:
    if len(rows) % 2:
        raise InputError(
            'config.train.batch_size: expected an even number of rows on each device, half of them for the discriminator, '
            f'found {len(rows)}'
        )
    return rows[first::2]
