"""Out-of-distribution detection: does an input resemble those that a network was trained on?

Deep nearest neighbours (Sun et al., ICML 2022): the score of an input is the distance of its code to the k-th nearest code of
the training split, on the unit sphere, in units of a limit that `SHARE` of the validation inputs do not exceed.

B inputs, R references, C condition.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax.data.archives import read_arrays
from onet_jax.data.datasets import Shapes, open_dataset
from onet_jax.data.fields import sees_views, shows_objects
from onet_jax.errors import InputError
from onet_jax.files import write_atomically
from onet_jax.models.method import Model, digest_arrays

MAX_SHAPES = 640  # of a split
NUM_VIEWS = 4  # of a shape, where inputs are images
NEIGHBOURS = 5  # k
SHARE = 0.95  # of the validation inputs, which are in distribution


class Domain(NamedTuple):
    """The training distribution of a network."""

    codes: np.ndarray  # float32 [R, C], of unit length: the references, codes of training inputs
    limit: float  # distance to the k-th nearest reference that `SHARE` of the validation inputs do not exceed

    def score(self, codes: np.ndarray) -> np.ndarray:
        """Out-of-distribution scores [B] of codes [B, C]: distance to the k-th nearest reference / `limit`; out above 1."""
        distances, _ = KDTree(self.codes).query(_unit(codes), k=[min(NEIGHBOURS, len(self.codes))])
        return distances[:, 0] / self.limit


def learn_domain(model: Model, params: dict, config: ConfigDict, dataset: Shapes) -> Domain:
    """The domain of a network that encodes its inputs, from the dataset that it was trained on."""
    references = Domain(_unit(_encode_split(model, params, config, dataset, 'train')), 1.0)
    distances = references.score(_encode_split(model, params, config, dataset, config.eval.split))
    # At least the rounding error of a unit vector: all codes may be equal.
    return references._replace(limit=max(float(np.quantile(distances, SHARE)), 1e-6))


def workdir_domain(
    workdir: str | Path, model: Model, params: dict, config: ConfigDict, data_dir: Path | None
) -> Domain | None:
    """The domain of the network of a workdir: from WORKDIR/domain.npz, or learned and kept there.

    None for a model whose inputs are not single objects, and, with a message, where it cannot be learned or read.
    """
    if not (shows_objects(config.data) and hasattr(model, 'encode')):
        return None
    path, weights = Path(workdir) / 'domain.npz', np.frombuffer(bytes.fromhex(digest_arrays(params)), np.uint8)
    try:
        if path.exists():
            stored = read_arrays(
                path, {'weights': ('u', weights.shape), 'codes': ('f', (None, None)), 'limit': ('f', ())}
            )
            if (stored['weights'] == weights).all():
                return Domain(stored['codes'], float(stored['limit']))
        if data_dir is None or not data_dir.is_dir():
            raise FileNotFoundError(f'its dataset ({data_dir}) is not here')
        domain, stream = learn_domain(model, params, config, open_dataset(data_dir)), io.BytesIO()
        np.savez(stream, weights=weights, codes=domain.codes, limit=domain.limit)
    except (InputError, OSError) as error:
        print(f'{workdir}: unknown which inputs are unlike those of the training: {error}', flush=True)
        return None
    try:
        write_atomically(path, stream.getvalue())
    except OSError as error:
        print(f'{path}: not kept ({error}), the next run will learn it again', flush=True)
    return domain


def _encode_split(model: Model, params: dict, config: ConfigDict, dataset: Shapes, split: str) -> np.ndarray:
    """Codes [K, C] of at most `MAX_SHAPES` shapes of a split, evenly spaced in it, and of `NUM_VIEWS` views of each."""
    every = -(-len(dataset.names(split)) // MAX_SHAPES)
    num_stored = dataset.index.num_views
    num_views = min(NUM_VIEWS, num_stored) if sees_views(config.data) else 1
    codes = []
    for number in tqdm(range(num_views), desc=f'codes of the {split} split', unit='view'):
        view = number * num_stored // num_views
        for batch, _ in dataset.evaluation_batches(config, split, targets=('none',), every=every, view=view):
            code = summarise(model.encode(params, *batch['inputs'].values()))
            codes.append(code[np.asarray(batch['mask'])])
    return np.concatenate(codes)


def summarise(cond: Any) -> np.ndarray:
    """Codes [B, C'] of a condition: [B, C], or feature maps [B, ..., C], which are averaged over space and concatenated."""
    arrays = (np.asarray(array) for array in jax.tree.leaves(cond))
    return np.concatenate([array.reshape(len(array), -1, array.shape[-1]).mean(axis=1) for array in arrays], axis=1)


def _unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.linalg.norm(codes, axis=-1, keepdims=True).clip(1e-12)
