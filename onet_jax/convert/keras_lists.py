"""Weights of the original NeRF: lists of arrays that Keras's `get_weights` gave and numpy pickled, read without running code.

A pickle is a program; of this one only the three functions that make an array are allowed.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.errors import InputError

RECONSTRUCT = np.empty(0).__reduce__()[0]  # what a pickled array calls, by either name of its module
ALLOWED = {
    ('numpy.core.multiarray', '_reconstruct'): RECONSTRUCT,
    ('numpy._core.multiarray', '_reconstruct'): RECONSTRUCT,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
}
# After the layers of the trunk: with view directions, and without.
HEADS = {4: ('feature_linear', 'views_linears.0', 'rgb_linear', 'alpha_linear'), 1: ('output_linear',)}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'{module}.{name} is not part of an array')
        return ALLOWED[module, name]


def read_keras_lists(path: str | Path) -> dict[str, Any]:
    """`model_000123.npy`, with `model_fine_000123.npy` beside it where it is there -> a checkpoint as nerf-pytorch has it.

    {'network_fn_state_dict', 'network_fine_state_dict', 'it'}; the number of the name is that of the steps. Raises
    FileNotFoundError, and InputError for a file that is damaged or holds anything but a list of arrays.
    """
    path = Path(path)
    named = re.fullmatch(r'(.*?)_?(\d{6})', path.stem)
    stored = {'network_fn_state_dict': _name_layers(path, _read_list(path)), 'it': int(named[2]) if named else 0}
    fine = path.with_name(f'{named[1]}_fine_{named[2]}.npy') if named else None
    if fine is not None and fine.is_file():
        stored['network_fine_state_dict'] = _name_layers(fine, _read_list(fine))
    return stored


def _read_list(path: Path) -> list[np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a list of weights (.npy), found no such file')
    stream = io.BytesIO(path.read_bytes())
    try:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        arrays = list(_Unpickler(stream).load())
    except Exception as error:  # of a damaged file anything may be missing
        raise InputError(f'{path}: expected a list of arrays from numpy, found another file ({error})') from error
    if not all(isinstance(array, np.ndarray) and array.dtype.kind == 'f' for array in arrays):
        raise InputError(f'{path}: expected arrays of floats, found {sorted({str(type(array)) for array in arrays})}')
    return arrays


def _name_layers(path: Path, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels [in, out] and biases in turn -> names and layout of nerf-pytorch."""
    kernels, biases = arrays[::2], arrays[1::2]
    right = len(kernels) == len(biases) and all(
        kernel.ndim == 2 and bias.shape == kernel.shape[1:] for kernel, bias in zip(kernels, biases, strict=False)
    )
    if not right or len(kernels) < 2:
        raise InputError(f'{path}: expected kernels and biases in turn, found the shapes {[a.shape for a in arrays]}')
    heads = HEADS[4 if kernels[-1].shape[1] == 1 else 1]
    names = [*(f'pts_linears.{i}' for i in range(len(kernels) - len(heads))), *heads]
    state: dict[str, np.ndarray] = {}
    for name, kernel, bias in zip(names, kernels, biases, strict=True):
        state |= {f'{name}.weight': kernel.T, f'{name}.bias': bias}
    return state
