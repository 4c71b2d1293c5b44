"""Out-of-distribution detection: does an input resemble those that a network was trained on?

Deep nearest neighbours (Sun et al., ICML 2022): the score of an input is the distance of its code to the k-th nearest code of
the training split, on the unit sphere, in units of a limit that `SHARE` of the validation inputs do not exceed. A network may
give a familiar code to an unfamiliar input. Where the field of an input has statistics, as the extent, density and noise of a
cloud, these have a score of the same kind, and the higher of the two counts.

B inputs, R references, C condition, K statistics.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from scipy.spatial import KDTree

from onet_jax.data.archives import read_arrays
from onet_jax.data.datasets import Shapes, open_dataset
from onet_jax.data.fields import FIELDS, in_order, sees_views, shows_objects
from onet_jax.errors import InputError
from onet_jax.files import write_atomically
from onet_jax.models.method import Model, digest_arrays
from onet_jax.progress import working

MAX_SHAPES = 640  # of a split
NUM_VIEWS = 4  # of a shape, where inputs are images
NEIGHBOURS = 5  # k
SHARE = 0.99  # of the validation inputs, which are in distribution


class Domain(NamedTuple):
    """The training distribution of a network."""

    codes: np.ndarray  # float32 [R, C], of unit length: the references, codes of training inputs
    limit: float  # distance to the k-th nearest reference that `SHARE` of the validation inputs do not exceed
    statistics: np.ndarray  # [R, K] of the references
    units: np.ndarray  # [K], in which the limit of their distances is 1

    def score(self, codes: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        """Out-of-distribution scores [B] of inputs with these codes [B, C] and statistics [B, K]; out above 1."""
        scores = _distances(self.codes, _unit(codes)) / self.limit
        if not self.statistics.size:
            return scores
        return np.maximum(scores, _distances(self.statistics / self.units, statistics / self.units))


def learn_domain(model: Model, params: dict, config: ConfigDict, dataset: Shapes) -> Domain:
    """The domain of a network that encodes its inputs, from the dataset that it was trained on."""
    codes, statistics = _describe_split(model, params, config, dataset, 'train')
    units = np.maximum(statistics.std(axis=0), 1e-6)
    seen_codes, seen_statistics = _describe_split(model, params, config, dataset, config.eval.split)
    limit = _find_limit(_distances(_unit(codes), _unit(seen_codes)))
    if statistics.size:
        units *= _find_limit(_distances(statistics / units, seen_statistics / units))
    domain = Domain(_unit(codes), limit, statistics, units)
    both = _find_limit(domain.score(seen_codes, seen_statistics))  # of two scores more than 1 - SHARE may exceed 1
    return domain._replace(limit=both * limit, units=both * units)


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
            expected = {'codes': ('f', (None, None)), 'limit': ('f', ())}
            expected |= {'statistics': ('f', (None, None)), 'units': ('f', (None,))}
            stored = read_arrays(path, {'weights': ('u', weights.shape), **expected})
            if (stored.pop('weights') == weights).all():
                return Domain(stored['codes'], float(stored['limit']), stored['statistics'], stored['units'])
        if data_dir is None or not data_dir.is_dir():
            raise FileNotFoundError(f'its dataset ({data_dir}) is not here')
        domain, stream = learn_domain(model, params, config, open_dataset(data_dir)), io.BytesIO()
        np.savez(stream, weights=weights, **domain._asdict())
    except (InputError, OSError) as error:
        print(f'{workdir}: unknown which inputs are unlike those of the training: {error}', flush=True)
        return None
    try:
        write_atomically(path, stream.getvalue())
    except OSError as error:
        print(f'{path}: not kept ({error}), the next run will learn it again', flush=True)
    return domain


def _describe_split(
    model: Model, params: dict, config: ConfigDict, dataset: Shapes, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and statistics of at most `MAX_SHAPES` shapes of a split, evenly spaced, and of `NUM_VIEWS` views of each."""
    num_shapes = len(dataset.names(split))
    every = -(-num_shapes // MAX_SHAPES)
    num_stored = dataset.index.num_views
    num_views = min(NUM_VIEWS, num_stored) if sees_views(config.data) else 1
    found = []
    as_trained = config.data.get('random_scans', False)
    what = f'learning, once for this network, what the inputs of the {split} split are like'
    with working(what, num_views * -(-num_shapes // every), 'inputs') as learning:
        for number in range(num_views):
            view = number * num_stored // num_views
            batches = dataset.evaluation_batches(
                config, split, targets=('none',), every=every, view=view, as_trained=as_trained
            )
            for batch, _ in batches:
                inputs, mask = batch['inputs'], np.asarray(batch['mask'])
                found.append((summarise(model.encode(params, *in_order(inputs)))[mask], measure(inputs)[mask]))
                learning.advance(int(mask.sum()))
    codes, statistics = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return codes, statistics


def measure(inputs: dict[str, Any]) -> np.ndarray:
    """The statistics [B, K] of a batch of inputs {field: [B, ...]}; K is 0 where no field has any."""
    rows = [
        np.stack([look(row) for row in np.asarray(array, np.float64)])
        for name, array in inputs.items()
        if name in FIELDS and (look := FIELDS[name].measure)
    ]
    return np.concatenate([np.zeros((len(next(iter(inputs.values()))), 0)), *rows], axis=1)


def summarise(cond: Any) -> np.ndarray:
    """Codes [B, C'] of a condition: [B, C], or feature maps [B, ..., C], which are averaged over space and concatenated.

    Codes of size 0, of what a network does not encode, are left out.
    """
    arrays = (np.asarray(array) for array in jax.tree.leaves(cond) if array.size)
    return np.concatenate([array.reshape(len(array), -1, array.shape[-1]).mean(axis=1) for array in arrays], axis=1)


def _distances(references: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The distances [B] of points [B, D] to the k-th nearest of the references [R, D]."""
    return KDTree(references).query(points, k=[min(NEIGHBOURS, len(references))])[0][:, 0]


def _find_limit(distances: np.ndarray) -> float:
    # At least the rounding error of a unit vector: all codes may be equal.
    return max(float(np.quantile(distances, SHARE)), 1e-6)


def _unit(codes: np.ndarray) -> np.ndarray:
    return codes / np.linalg.norm(codes, axis=-1, keepdims=True).clip(1e-12)
