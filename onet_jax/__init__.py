"""Occupancy Networks in JAX: 3D reconstruction in function space.

A shape is the decision boundary of `f(point, condition) -> occupancy`. The public names:

    reconstruct     a point cloud to a mesh, without training
    load            a trained network: (model, params), functions and weights
    train           train a config, such as `configs.onet_points('tiny')`, in a folder
    configs         the experiments, functions of their variants: `dir(onet_jax.configs)`
    extract_mesh    the level set of any field as a closed mesh (MISE, marching cubes)
    refine_mesh     a mesh whose vertices gradients of the field move onto the level set
    Method          the interface of a paper to training, evaluation and inference
    InputError      the exception that wrong input raises

Compiled programs are kept in the cache folder, $ONET_JAX_CACHE or ~/.cache/onet_jax, so that they are compiled once. A
JAX_COMPILATION_CACHE_DIR of your own wins, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from onet_jax.files import cache_folder

if TYPE_CHECKING:
    from onet_jax import configs
    from onet_jax.errors import InputError
    from onet_jax.geometry.extract import extract_mesh
    from onet_jax.geometry.refine import refine_mesh
    from onet_jax.models import Method
    from onet_jax.ready_made import reconstruct
    from onet_jax.run import load
    from onet_jax.training.loop import train

__version__ = '0.2.0'

_HOME = {
    'load': 'onet_jax.run',
    'reconstruct': 'onet_jax.ready_made',
    'train': 'onet_jax.training.loop',
    'extract_mesh': 'onet_jax.geometry.extract',
    'refine_mesh': 'onet_jax.geometry.refine',
    'Method': 'onet_jax.models',
    'InputError': 'onet_jax.errors',
}
__all__ = ['InputError', 'Method', 'configs', 'extract_mesh', 'load', 'reconstruct', 'refine_mesh', 'train']

# JAX reads the variable when it is imported. It takes no path that is not UTF-8, which is not printable.
_COMPILED = str(cache_folder() / 'compiled')
if 'jax' not in sys.modules and _COMPILED.isprintable():
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _COMPILED)
elif 'jax' in sys.modules and sys.modules['jax'].config.jax_compilation_cache_dir is None and _COMPILED.isprintable():
    sys.modules['jax'].config.update('jax_compilation_cache_dir', _COMPILED)


def __getattr__(name: str):
    # Imported on first use: the processes that prepare data need neither JAX nor its start-up time.
    if name == 'configs':
        return import_module('onet_jax.configs')
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return [*__all__, '__version__']
