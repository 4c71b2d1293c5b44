"""Occupancy Networks in JAX: 3D reconstruction in function space.

A shape is the decision boundary of `f(point, condition) -> occupancy`. The public names:

    load            a trained network: (model, params), functions and weights
    extract_mesh    the level set of any field as a closed mesh (MISE, marching cubes)
    refine_mesh     a mesh whose vertices gradients of the field move onto the level set
    Method          the interface of a paper to training, evaluation and inference
    InputError      the exception that wrong input raises
"""

from importlib import import_module

__version__ = '0.1.0'

_HOME = {
    'load': 'onet_jax.run',
    'extract_mesh': 'onet_jax.geometry.extract',
    'refine_mesh': 'onet_jax.geometry.refine',
    'Method': 'onet_jax.models',
    'InputError': 'onet_jax.errors',
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    # Imported on first use: the processes that prepare data need neither JAX nor its start-up time.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
