"""Datasets by layout: one interface to training feeds, evaluation batches and ground truth, whatever a folder holds.

The layouts are those of `schema.py`: shapes, and sequences of shapes, of which an example is a clip of some frames. Another
kind of data is one more class with the members of `Shapes`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from onet_jax.data import batches, clips, fields, records
from onet_jax.data.feeds import open_feed
from onet_jax.data.posed_views import is_scene
from onet_jax.data.resident import resident_feed
from onet_jax.data.scenes import Scene, open_scene
from onet_jax.data.schema import SEQUENCES
from onet_jax.errors import InputError


class Examples(NamedTuple):
    """An evaluation batch."""

    batch: dict  # see `fields.py`; 'mask' is False for padding rows
    names: tuple[tuple[str, str], ...]  # (category, name) of the real rows


class Shapes(NamedTuple):
    """A dataset of shapes."""

    data_dir: Path
    index: records.Index  # type: ignore[assignment]  # hides the method `index` of tuples

    def scored_fields(self, data: ConfigDict) -> tuple[str, ...]:
        """The ground truth of an evaluation: pictures for a network that learns from them, else the shape."""
        return ('views',) if 'views' in data.targets else ('volume_points', 'surface_samples')

    @property
    def labelled_field(self) -> str:
        """The points and occupancies that a threshold is chosen on."""
        return 'volume_points'

    def names(self, split: str) -> tuple[tuple[str, str], ...]:
        """(category, name) of each file of a split. Raises InputError for an unknown or an empty one."""
        return records.split_shapes(self.data_dir, self.index, split)

    def examples(
        self, config: ConfigDict, split: str, left_out: Collection[tuple[str, str]] = ()
    ) -> dict[int, tuple[str, str]]:
        """Position -> (category, name) of each evaluation example of a split, without those of the files `left_out`."""
        return batches.pick_examples(self.names(split), left_out=left_out)

    def feed(self, data: ConfigDict, **options: Any) -> records.Feed:
        """The training feed of the group `data` of a config; options and errors as of `feeds.open_feed`."""
        return open_feed(data.feed, self.data_dir, fields.find_need(data), **options)

    def evaluation_batches(
        self,
        config: ConfigDict,
        split: str,
        *,
        targets: Sequence[str] | None = None,
        batch_size: int | None = None,
        every: int = 1,
        positions: Sequence[int] | None = None,
        view: int = 0,
        fixed_views: bool = False,
        left_out: Collection[tuple[str, str]] = (),
        as_trained: bool = False,
    ) -> Iterator[Examples]:
        """Whole examples of a split, in its order. An input is a function of (config.seed, position in the split).

        targets: names of fields, by default `config.eval.targets`; batch_size: by default that of `config.eval`; view: of the
        fields of one view; those of several have all others of the first `config.data.num_views`, or the fixed ones, which are
        stored last. as_trained: inputs are drawn as in training, in random poses and with its noise; the other arguments and
        the errors as of `batches.evaluation_batches`.
        """
        options: dict[str, Any] = {'every': every, 'positions': positions, 'view': view, 'left_out': left_out}
        size = batch_size or config.eval.batch_size

        def read(names: tuple[str, ...]) -> Iterator:
            views, columns = self._pick_views(config.data, names, view, fixed_views), fields.columns_of(names)
            return batches.evaluation_batches(self.data_dir, split, size, columns, views=views, **options)

        return _draw_examples(config, split, targets, as_trained, read)

    def _pick_views(self, data: ConfigDict, names: Sequence[str], view: int, fixed_views: bool) -> tuple[int, ...]:
        """The views that fields read on an axis of their own, that of the fields of one view first; () where they have none."""
        if not fields.count_views(names):
            return ()
        index, shown = self.index, (view,) * fields.sees_first_view(names)
        first_fixed = index.num_views - index.num_fixed_views
        random_views = range(index.num_input_views, first_fixed)[: data.num_views]
        some = range(first_fixed, index.num_views) if fixed_views else random_views
        others = tuple(other for other in some if other not in shown)
        if not others:
            raise InputError(
                f'{self.data_dir / "dataset.json"}: expected {"fixed" if fixed_views else "other"} views of a shape, found '
                f'{index.num_views} in all, {index.num_fixed_views} fixed; prepare the dataset with more (--num_views=11 '
                '--num_fixed_views=5)'
            )
        return (*shown, *others)

    def read(self, category: str, name: str) -> records.Shape:
        """One example as stored. Raises as `records.read_shape` does."""
        return records.read_shape(records.shape_path(self.data_dir, category, name), self.index)

    def check(self, category: str, name: str) -> bool:
        """True; raises FileNotFoundError or InputError for an example that cannot be read."""
        shape, path = self.read(category, name), records.shape_path(self.data_dir, category, name)
        if shape.image is not None:
            records.decode_views(path, 'image', shape.image[:1])
        return True


class Sequences(NamedTuple):
    """A dataset of sequences of shapes. An example is a clip of `config.data.num_frames` frames, (category, 'name/start')."""

    data_dir: Path
    index: records.Index  # type: ignore[assignment]  # as of `Shapes`

    def scored_fields(self, data: ConfigDict) -> tuple[str, ...]:
        """The ground truth of an evaluation."""
        return 'volume_clip', 'trajectories'

    @property
    def labelled_field(self) -> str:
        """The points and occupancies that a threshold is chosen on."""
        return 'start_points'

    def names(self, split: str) -> tuple[tuple[str, str], ...]:
        """(category, name) of each sequence of a split. Raises InputError for an unknown or an empty one."""
        return records.split_shapes(self.data_dir, self.index, split)

    def examples(
        self, config: ConfigDict, split: str, left_out: Collection[tuple[str, str]] = ()
    ) -> dict[int, tuple[str, str]]:
        """Position -> (category, 'name/start') of each evaluation clip of a split, without those of the sequences `left_out`.

        Raises InputError as `names`, and where all sequences are shorter than a clip.
        """
        found = clips.list_clips(self.index, self.names(split), config.data.num_frames)
        return {i: clip for i, clip in enumerate(found) if clips.sequence_of(clip) not in left_out}

    def feed(self, data: ConfigDict, **options: Any) -> records.Feed:
        """The training feed of the group `data` of a config; options as of `resident.resident_feed`.

        Raises InputError as that does, and for another feed than 'resident'.
        """
        if data.feed != 'resident':
            raise InputError(
                f"config.data.feed: expected 'resident' for {self.data_dir}, a dataset of sequences, which is not streamed, "
                f'found {data.feed!r}; set --config.data.feed=resident'
            )
        return resident_feed(self.data_dir, fields.find_need(data), layout=SEQUENCES, **options)

    def evaluation_batches(
        self,
        config: ConfigDict,
        split: str,
        *,
        targets: Sequence[str] | None = None,
        batch_size: int | None = None,
        every: int = 1,
        positions: Sequence[int] | None = None,
        view: int = 0,
        left_out: Collection[tuple[str, str]] = (),
        as_trained: bool = False,
    ) -> Iterator[Examples]:
        """As `Shapes.evaluation_batches`, of clips; `left_out` names sequences."""
        options: dict[str, Any] = {'every': every, 'positions': positions, 'view': view, 'left_out': left_out}
        size, length = batch_size or config.eval.batch_size, config.data.num_frames

        def read(names: tuple[str, ...]) -> Iterator:
            return clips.clip_batches(self.data_dir, split, size, fields.columns_of(names), length=length, **options)

        return _draw_examples(config, split, targets, as_trained, read)

    def read(self, category: str, name: str) -> records.ShapeSequence:
        """One sequence as stored. Raises as `records.read_sequence` does."""
        return records.read_sequence(records.sequence_path(self.data_dir, category, name), self.index)

    def check(self, category: str, name: str) -> bool:
        """True; raises FileNotFoundError or InputError for a sequence that cannot be read."""
        sequence, path = self.read(category, name), records.sequence_path(self.data_dir, category, name)
        if sequence.image_seq is not None:
            records.decode_views(path, 'image_seq', sequence.image_seq[:1])
        return True


class Scenes(Scene):
    """A dataset of the posed views of one scene. A training example is a ray, one of an evaluation a view, (scene, picture)."""

    def evaluation_batches(
        self,
        config: ConfigDict,
        split: str,
        *,
        targets: Sequence[str] | None = None,
        batch_size: int | None = None,
        every: int = 1,
        positions: Sequence[int] | None = None,
        view: int = 0,
        left_out: Collection[tuple[str, str]] = (),
        as_trained: bool = False,
    ) -> Iterator[Examples]:
        """As `Shapes.evaluation_batches`, of one view each whatever `batch_size` is."""
        return _draw_examples(
            config,
            split,
            targets,
            as_trained,
            lambda columns: self.raw_batches(config, split, positions, every, left_out),
        )


def _draw_examples(
    config: ConfigDict, split: str, targets: Sequence[str] | None, as_trained: bool, read: Callable
) -> Iterator[Examples]:
    """read(names of fields) -> raw batches and the names of their rows."""
    inputs = fields.unseen_inputs(fields.find_fields(config.data)[0], split)
    targets = tuple(config.eval.targets if targets is None else targets)
    fields.check_names('config.eval.targets', targets)
    key, data = fields.evaluation_key(config.seed), FrozenConfigDict(config.data)
    for raw, names in read((*inputs, *targets)):
        yield Examples(_transform(data, inputs, targets, as_trained, key, raw), names)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _transform(
    data: FrozenConfigDict,
    inputs: tuple[str, ...],
    targets: tuple[str, ...],
    as_trained: bool,
    key: jax.Array,
    raw: dict,
) -> dict:
    # A function of the module, so that the validations of a run share one compilation.
    return fields.make_evaluation_transform(data, inputs, targets, as_trained)(key, raw)


OPENED = {'shapes': Shapes, 'sequences': Sequences}


def open_dataset(data_dir: str | Path) -> Any:  # one of `OPENED`: code for one kind of data knows which it gets
    """The dataset in a folder. Raises FileNotFoundError without one, InputError for one that cannot be used."""
    data_dir = Path(data_dir)
    if is_scene(data_dir):
        return Scenes(*open_scene(data_dir))
    layout = records.read_layout(data_dir)
    return OPENED[layout.name](data_dir, records.read_index(data_dir, layout))


def digest(data_dir: str | Path) -> str:
    """SHA-256 of a dataset, in hexadecimal digits. Raises as `open_dataset`."""
    data_dir = Path(data_dir)
    return open_scene(data_dir).index.content if is_scene(data_dir) else records.digest(data_dir)


def examples_of(batch: dict, i: int) -> dict[str, dict[str, np.ndarray]]:
    """Row i of a batch: {'inputs': {name: [1, ...]}, 'targets': {name: [1, ...]}}."""
    return {
        part: {name: np.asarray(array[i : i + 1]) for name, array in batch[part].items()}
        for part in ('inputs', 'targets')
    }
