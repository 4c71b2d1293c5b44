"""Encoder-decoder networks: shared by methods whose decoder outputs a whole shape at once.

3D-R2N2, PSGN, PSGN 4D, AtlasNet and Deep Marching Cubes.

B batch, C condition. `params` are all variables of a network, {'params': ..., 'batch_stats': ...}, `more` are further arrays
that a decoder takes beside the condition.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from onet_jax.data.fields import input_names
from onet_jax.models.method import Aux, Compiled, Signature, apply, as_inputs, encode


class EncoderDecoder(nn.Module):
    """Encoder and decoder, under the names of the official checkpoints."""

    encoder: nn.Module
    decoder: nn.Module
    reads: str = ''  # the field of the inputs

    def __call__(self, inputs: jax.Array, *more: jax.Array, train: bool = False, axis_name: str | None = None) -> Any:
        """inputs [B, ...] -> the output of the decoder."""
        mode: dict[str, Any] = {'train': train, 'axis_name': axis_name}
        return self.decoder(self.encoder(as_inputs(inputs, self.reads), **mode), *more, **mode)

    def encode(self, inputs: jax.Array) -> Any:
        return self.encoder(as_inputs(inputs, self.reads))

    def decode(self, cond: Any, *more: jax.Array) -> Any:
        return self.decoder(cond, *more)


class Functions(NamedTuple):
    """The functions of a module, jitted; two modules of the same configuration share their compilation."""

    init: Callable  # (key, inputs [B, ...], *more) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C] or a tree of [B, ...]
    decode: Callable  # (params, cond, *more) -> the output of the decoder, in evaluation mode


def functions_of(module: EncoderDecoder) -> Functions:
    """The functions of a network."""
    return Functions(Compiled(_init, module), partial(encode, module), Compiled(_decode, module))


def _init(module, key, inputs, *more):
    return module.init(key, inputs, *more)


def _decode(module, params, cond, *more):
    return apply(module, params, cond, *more, method='decode')


def signatures_of(config: ConfigDict, decode: str, returns: tuple[str, ...] = ()) -> dict[str, Signature]:
    """`Method.signatures` of an encoder of the inputs of a config and of the decoder, the function `decode` of the model."""
    return {
        'encode': Signature(dict.fromkeys(input_names(config.data)), ('cond',)),
        decode: Signature({'cond': None}, returns or (decode,)),
    }


def loss_of(
    module: EncoderDecoder,
    error: Callable,
    params: dict,
    target: jax.Array,
    inputs: jax.Array,
    axis_name: str | None = None,
    more: tuple[jax.Array, ...] = (),
) -> tuple[jax.Array, Aux]:
    """The mean over the batch of error(output, target) -> [B], in train mode, and the updated running statistics."""
    output, mutated = module.apply(params, inputs, *more, train=True, axis_name=axis_name, mutable=['batch_stats'])
    return error(output, target).mean(), Aux(mutated, {})
