"""Scenes: posed views as a dataset. A training example is a ray, one of an evaluation a view.

All pictures of a split stay in the memory of the host; a batch is a gather of some pixels with their cameras. V views, H, W
pixels, B batch.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.images import load_layer
from onet_jax.data.posed_views import PosedViews, find_layout, read_views
from onet_jax.data.records import Feed, Index
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera
from onet_jax.progress import track

RAY_STREAM = 3  # of random numbers of one seed, beside those of `resident.py`


class LoadedViews(NamedTuple):
    """Some views of a scene, as a step reads them."""

    rgba: np.ndarray  # [V, H, W, 4] uint8, colours times alpha
    extrinsic: np.ndarray  # [V, 3, 4] float32, points -> camera frame
    intrinsic: np.ndarray  # [V, 3, 3] float32, in px of these pictures
    bounds: np.ndarray  # [V, 2] float32, near and far

    def whole(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """The raw evaluation batch of one view: all its pixels (x, y), [H, W] int each."""
        row = {name: array[None] for name, array in self.rays(np.zeros_like(x), x, y).items()}
        cameras = {name: getattr(self, name) for name in ('extrinsic', 'intrinsic', 'bounds')}
        return row | cameras | {name: np.zeros(1, np.int32) for name in ('row', 'index')} | {'mask': np.array([True])}

    def rays(self, view: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """Raw rows of the pixels (x, y) of some views, [B] int each."""
        height, width = self.rgba.shape[1:3]
        return {
            'rgba': self.rgba[view, y, x],
            'pixel': np.stack([x, y], axis=-1).astype(np.float32),
            'extent': np.broadcast_to(np.array([width, height], np.float32), (*np.shape(view), 2)),
            **{name: getattr(self, name)[view] for name in ('extrinsic', 'intrinsic', 'bounds')},
        }


def load_views(views: PosedViews, chosen: Sequence[int], downscale: float) -> LoadedViews:
    """Read and shrink some pictures, by the area of their pixels; the intrinsics are those of the new size exactly.

    Raises InputError, naming the file, for a picture that cannot be read.
    """
    size = shrink(views.size, downscale)
    rgba = [load_layer(views.pictures[i], size) for i in track(chosen, 'loading the pictures', 'views')]
    camera = resize_camera(Camera(*(part[list(chosen)] for part in views.camera)), views.size, size)
    return LoadedViews(np.stack(rgba), *(part.astype(np.float32) for part in (*camera, views.bounds[list(chosen)])))


def shrink(size: tuple[int, int], downscale: float) -> tuple[int, int]:
    """A size in px divided by `config.data.downscale`."""
    width, height = (max(round(edge / downscale), 1) for edge in size)
    return width, height


def resize_camera(camera: Camera, size: tuple[int, int], new_size: tuple[int, int]) -> Camera:
    """The camera of pictures of another size (width, height)."""
    scale = np.diag([new_size[0] / size[0], new_size[1] / size[1], 1])
    return camera._replace(camera_mat=scale @ camera.camera_mat)


def draw_middle(rng: np.random.Generator, edge: int, share: float, count: int) -> np.ndarray:
    """Random pixels [count] along an edge, of the middle `share` of it as the official code cuts it, at least one."""
    half = int(edge // 2 * share)
    return (
        rng.integers(edge, size=count) if share == 1 else edge // 2 - half + rng.integers(max(2 * half, 1), size=count)
    )


class Scene(NamedTuple):
    """A dataset of the views of one scene, with the members of `datasets.Shapes`."""

    data_dir: Path
    index: Index  # type: ignore[assignment]  # hides the method `index` of tuples
    views: PosedViews

    def scored_fields(self, data: ConfigDict) -> tuple[str, ...]:
        """The ground truth of an evaluation."""
        return ('colours',)

    def names(self, split: str) -> tuple[tuple[str, str], ...]:
        """(scene, picture) of each view of a split. Raises InputError for an unknown one."""
        if split not in self.index.splits:
            raise InputError(f'{self.data_dir}: expected a split of {sorted(self.index.splits)}, found {split!r}')
        return self.index.splits[split]

    def examples(
        self, config: ConfigDict, split: str, left_out: Collection[tuple[str, str]] = ()
    ) -> dict[int, tuple[str, str]]:
        """Position -> (scene, picture) of each evaluated view of a split; of 'val' every `config.data.validate_every`-th."""
        every = config.data.validate_every if split == 'val' else 1
        return {i: name for i, name in enumerate(self.names(split)) if i % every == 0 and name not in left_out}

    def feed(self, data: ConfigDict, *, batch_size: int, seed: int, rows: range | None = None, **_: Any) -> Feed:
        """Random pixels of the training views: of all of them, or with `data.one_view` of one in each step.

        In the first `data.precrop_steps` they are of the middle of the pictures (`data.precrop_fraction` of each side), where
        the object is.
        """
        if batch_size < 1:
            raise InputError(f'config.train.batch_size: expected at least 1 ray, found {batch_size}')
        loaded = load_views(self.views, self.views.splits['train'], data.downscale)
        num_views, height, width = loaded.rgba.shape[:3]
        kept = np.asarray(range(batch_size) if rows is None else rows, np.int32)

        def choose(step: int) -> dict:
            rng = np.random.default_rng([seed, step, RAY_STREAM])
            view = np.broadcast_to(rng.integers(num_views, size=1 if data.one_view else batch_size), batch_size)
            share = data.precrop_fraction if step < data.precrop_steps else 1.0
            x, y = (draw_middle(rng, edge, share, batch_size) for edge in (width, height))
            return {**loaded.rays(view[kept], x[kept], y[kept]), 'index': view[kept].astype(np.int32), 'row': kept}

        def batches(start_step: int) -> Iterator[dict]:
            step = start_step
            while True:
                yield choose(step)
                step += 1

        return batches

    def raw_batches(
        self, config: ConfigDict, split: str, positions: Sequence[int] | None, every: int, left_out: Collection
    ) -> Iterator[tuple[dict, tuple[tuple[str, str], ...]]]:
        """Views of a split with all their pixels, one at a time, and their names."""
        examples = self.examples(config, split, left_out)
        chosen = list(examples)[::every] if positions is None else positions
        for position in chosen:
            loaded = load_views(self.views, [self.views.splits[split][position]], config.data.downscale)
            y, x = np.mgrid[: loaded.rgba.shape[1], : loaded.rgba.shape[2]]
            row = {name: np.array([position], np.int32) for name in ('row', 'index')}
            yield loaded.whole(x, y) | row, (self.names(split)[position],)

    def check(self, category: str, name: str) -> bool:
        """True; raises InputError for a picture that cannot be read."""
        (picture,) = (path for path in self.views.pictures if _name(self.views.root, path) == name)
        load_layer(picture, (1, 1))
        return True


def open_scene(data_dir: Path) -> Scene:
    """The posed pictures in a folder. Raises as `read_views`."""
    views = read_views(data_dir)
    name = Path(os.path.abspath(data_dir)).name
    names = [(name, _name(views.root, path)) for path in views.pictures]
    splits = {split: tuple(names[i] for i in some) for split, some in views.splits.items()}
    digest = hashlib.sha256()
    for array in (*views.camera, views.bounds):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(str([path.stat().st_size for path in views.pictures]).encode())
    source = {'kind': 'views', 'layout': find_layout(data_dir)}
    index = Index((name,), splits, (), 0, 0, len(names), {}, source, digest.hexdigest(), 'scene')
    return Scene(data_dir, index, views)


def _name(root: Path, picture: Path) -> str:
    return picture.relative_to(root).with_suffix('').as_posix().replace('/', '_')
