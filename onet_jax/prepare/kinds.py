"""What a dataset can be made of, by name: one preparation each. Imports no JAX."""

from collections.abc import Callable

from onet_jax.data.records import Index
from onet_jax.prepare.embedded import prepare_moving, prepare_procedural
from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.own_sequences import prepare_sequences
from onet_jax.prepare.shapenet import import_shapenet
from onet_jax.prepare.texture_fields import import_texture_fields

KINDS: dict[str, Callable[..., Index]] = {
    'meshes': prepare_meshes,
    'sequences': prepare_sequences,
    'shapenet': import_shapenet,
    'texture_fields': import_texture_fields,
    'solids': prepare_procedural,
    'moving solids': prepare_moving,
}
