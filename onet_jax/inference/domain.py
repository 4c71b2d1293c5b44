"""Whether an input looks like those that a network has learned from.

Detection by nearest neighbours (Sun et al., ICML 2022): the code of the input against those of inputs of the training split,
on the unit sphere. How far is far is measured on the inputs of the validation split, which the network has not seen either.

B inputs, R references, C condition.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax.data.archives import read_arrays
from onet_jax.data.fields import evaluation_key, make_evaluation_transform
from onet_jax.data.records import evaluation_batches, read_index, split_shapes
from onet_jax.files import write_atomically
from onet_jax.models import occupancy_network

MAX_SHAPES = 640  # of a split
NUM_VIEWS = 4  # of a shape, where inputs are pictures
NEIGHBOURS = 5
SHARE = 0.95  # of the validation inputs that count as inside


class Domain(NamedTuple):
    """The inputs that a network knows."""

    codes: np.ndarray  # float32 [R, C], of unit length
    limit: float  # distance to the nearest references that `SHARE` of the validation inputs do not exceed

    def strangeness(self, codes: np.ndarray) -> np.ndarray:
        """codes [B, C] of inputs -> their distances from the references, [B], in units of `limit`: above 1 is outside."""
        distances, _ = KDTree(self.codes).query(_unit(codes), k=[min(NEIGHBOURS, len(self.codes))])
        return distances[:, 0] / self.limit


def learn_domain(params: dict, config: ConfigDict, data_dir: str | Path) -> Domain:
    """The domain of a network with an encoder of inputs, from the dataset that it was trained on."""
    references = Domain(_unit(_encode_split(params, config, data_dir, 'train')), 1.0)
    distances = references.strangeness(_encode_split(params, config, data_dir, config.eval.split))
    # At least the rounding of a unit vector: codes may all be equal.
    return references._replace(limit=max(float(np.quantile(distances, SHARE)), 1e-6))


def workdir_domain(workdir: str | Path, params: dict, config: ConfigDict, data_dir: Path | None) -> Domain | None:
    """The domain of the network of a workdir: from WORKDIR/domain.npz, or learned and kept there.

    None for a model that encodes no inputs, and, said in a line with the reason, where it cannot be learned or read.
    """
    if config.data.input in ('index', 'none'):
        return None
    path, weights = Path(workdir) / 'domain.npz', np.frombuffer(hash_weights(params), np.uint8)
    try:
        if path.exists():
            stored = read_arrays(
                path, {'weights': ('u', weights.shape), 'codes': ('f', (None, None)), 'limit': ('f', ())}
            )
            if (stored['weights'] == weights).all():
                return Domain(stored['codes'], float(stored['limit']))
        if data_dir is None or not data_dir.is_dir():
            raise FileNotFoundError(f'its dataset ({data_dir}) is not here')
        domain, stream = learn_domain(params, config, data_dir), io.BytesIO()
        np.savez(stream, weights=weights, codes=domain.codes, limit=domain.limit)
    except (ValueError, OSError) as error:
        print(f'{workdir}: unknown which inputs are unlike those of the training: {error}', flush=True)
        return None
    try:
        write_atomically(path, stream.getvalue())
    except OSError as error:
        print(f'{path}: not kept ({error}), the next run will learn it again', flush=True)
    return domain


def hash_weights(params: dict) -> bytes:
    """SHA-256 of all arrays."""
    digest = hashlib.sha256()
    for array in jax.tree.leaves(params):
        digest.update(np.asarray(array).tobytes())
    return digest.digest()


def _encode_split(params: dict, config: ConfigDict, data_dir: str | Path, split: str) -> np.ndarray:
    """Codes of at most `MAX_SHAPES` shapes of a split, evenly spaced in it, and of several views of each: [., C]."""
    model, transform = occupancy_network(config.model), jax.jit(make_evaluation_transform(config.data))
    index = read_index(data_dir)
    every = -(-len(split_shapes(data_dir, index, split)) // MAX_SHAPES)
    num_views = min(NUM_VIEWS, max(index.num_views, 1)) if config.data.input == 'image' else 1
    codes = []
    for number in tqdm(range(num_views), desc=f'codes of the {split} split', unit='view'):
        view = number * index.num_views // num_views
        for raw, _ in evaluation_batches(data_dir, split, config.eval.batch_size, every=every, view=view):
            inputs = transform(evaluation_key(config.seed), raw)['inputs']
            codes.append(summarise(model.encode(params, inputs))[raw['mask']])
    return np.concatenate(codes)


def summarise(cond: Any) -> np.ndarray:
    """A condition, [B, C] or a tree of maps [B, ..., C], as codes [B, C']: of maps the means over all places, side by side."""
    arrays = (np.asarray(array) for array in jax.tree.leaves(cond))
    return np.concatenate([array.reshape(len(array), -1, array.shape[-1]).mean(axis=1) for array in arrays], axis=1)


def _unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.linalg.norm(codes, axis=-1, keepdims=True).clip(1e-12)
