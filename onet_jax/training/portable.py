"""Pretrained weights, of the package, the Hugging Face hub or a workdir: a folder of safetensors and their config.

Every command takes it for a workdir.

FOLDER/config.json        the config, at the threshold that meshes are made at
FOLDER/model.safetensors  the weights, float32, by their path in the variables: 'params.decoder.fc_p.kernel'
FOLDER/validation.json    the means over the validation split, {} where it was not validated
FOLDER/domain.npz         the reference of out-of-distribution scores, where the workdir has one
FOLDER/digest.json        the SHA-256 of these files, verified before they are read
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save

from onet_jax.convert.torch_file import read_torch_file
from onet_jax.errors import InputError
from onet_jax.files import claim_folder, write_atomically, write_json
from onet_jax.json_files import NUMBER, read_json
from onet_jax.training.state import path_of
from onet_jax.training.storage import DIGEST, digest_files, find_damage

WEIGHTS, STEP = 'model.safetensors', 'step'
VALIDATION = 'validation.json'
PACKAGED, HUB = Path(__file__).parents[1] / 'weights', 'hf://'
FILES = ('config.json', WEIGHTS, VALIDATION, 'domain.npz', DIGEST)


def find_workdir(name: str | Path) -> Path:
    """The folder of a trained network: a workdir, weights of this package by their name, or of the Hugging Face hub.

    name: a path; one of `names_of_weights()`, unless a workdir has that path; or 'hf://USER/REPO', which is downloaded once
    (needs `pip install -e '.[hub]'`).
    """
    text = str(name)
    if text.startswith(HUB):
        try:
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(text.removeprefix(HUB), allow_patterns=[*FILES]))
        except ModuleNotFoundError as error:
            raise InputError(f"{text}: expected huggingface_hub, found none; pip install -e '.[hub]'") from error
        except (OSError, ValueError) as error:  # no such repository, no network
            raise InputError(f'{text}: expected a repository of the Hugging Face hub, found none: {error}') from error
    if text in names_of_weights() and not (Path(text) / 'config.json').exists():
        return PACKAGED / text
    return Path(name)


def is_network(name: str | Path) -> bool:
    """Whether `find_workdir` finds a trained network of this name, or one of the hub has it."""
    return str(name).startswith(HUB) or (find_workdir(name) / 'config.json').is_file()


def names_of_weights() -> list[str]:
    """The weights that travel with the package; each has a card, onet_jax/weights/NAME/README.md."""
    return sorted(path.parent.name for path in PACKAGED.glob('*/config.json'))


def name_of(folder: str | Path) -> str:
    """The name of a folder of weights: of the hub USER--REPO and the first digits of the commit."""
    folder = Path(folder).resolve()
    if folder.parent.name == 'snapshots':  # models--USER--REPO/snapshots/COMMIT, where huggingface_hub keeps them
        return f'{folder.parents[1].name.removeprefix("models--")}-{folder.name[:7]}'
    return folder.name


def is_portable(folder: str | Path) -> bool:
    """Whether a folder holds weights that `write_weights` wrote."""
    return (Path(folder) / WEIGHTS).is_file()


def write_weights(
    folder: str | Path, config: ConfigDict, step: int, variables: Mapping, metrics: Mapping, domain: bytes | None
) -> None:
    """Write a folder of weights. Raises InputError for one that has other files, OSError where it cannot be written.

    variables: of the network, any flax collections. metrics: of the validation. domain: the content of domain.npz.
    """
    folder = claim_folder(folder)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    arrays = {'.'.join(path_of(path)): np.asarray(array, np.float32) for path, array in leaves}
    write_json(folder / 'config.json', config.to_dict())
    write_json(folder / VALIDATION, dict(metrics))
    if domain is not None:
        write_atomically(folder / 'domain.npz', domain)
    write_atomically(folder / WEIGHTS, save({**arrays, STEP: np.array(step, np.int64)}))
    write_json(folder / DIGEST, digest_files(folder))


def read_weights(folder: str | Path) -> tuple[int, dict[str, Any], dict[str, float]]:
    """The step, the variables and the metrics of a folder of weights.

    Raises OSError and InputError, naming the file, for damaged ones.
    """
    damage = find_damage(Path(folder))
    if damage is not None:
        raise InputError(f'{damage}; download or install it again')
    arrays = read_torch_file(Path(folder) / WEIGHTS)
    if STEP not in arrays:
        raise InputError(
            f'{Path(folder) / WEIGHTS}: expected weights of onet_jax, with their step, found {sorted(arrays)[:9]}'
        )
    step, variables = int(arrays.pop(STEP)), dict[str, Any]()
    for name, array in arrays.items():
        *modules, leaf = name.split('.')
        tree = variables
        for module in modules:
            tree = tree.setdefault(module, {})
        tree[leaf] = jnp.asarray(array)
    return step, variables, read_json(Path(folder) / VALIDATION, {'': NUMBER})
