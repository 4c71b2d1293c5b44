"""The schema of datasets: the one table of what can be stored of a shape, or of a sequence of shapes. Imports no JAX.

The writer, the reader, the TFRecords, both feeds, their memory estimates and evaluation loop over it. `README.md` beside this
file has every column with its unit and frame. T labelled points and N surface samples of a shape, V views, F frames of a
sequence.
"""

from collections import namedtuple
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CHUNK_POINTS = 2048  # labelled points or surface samples in a chunk
NUM_VOXELS = 32  # on each axis
VIEW_SIZE = 137  # px, of square views
FRAME_SIZE = 224  # px, of the square views of a frame, as ResNet-18 reads them
DEPTH_STEPS = 1 << 14  # quantisation of depth: steps per unit; 0 is background


class Column(NamedTuple):
    """One stored array of an example: [*dims], or one such array for each point, sample or view."""

    per: str  # 'shape', 'point' (labelled), 'sample' (of the surface), 'view', or 'ray' of a scene, which is not stored as such
    dtype: type  # bool is stored as packed bits
    dims: tuple[int, ...] = ()
    required: bool = True
    is_picture: bool = False  # images, stored as files: JPEG for RGB, PNG for one channel
    moves: bool = False  # all of that for each frame of a sequence


COLUMNS = {
    'points': Column('point', np.float16, (3,)),
    'occ': Column('point', bool),
    'surface': Column('sample', np.float16, (3,)),
    'normals': Column('sample', np.float16, (3,)),
    'voxels': Column('shape', bool, (NUM_VOXELS,) * 3, required=False),
    'points_seq': Column('point', np.float16, (3,), moves=True),
    'occ_seq': Column('point', bool, moves=True),
    'pcl_seq': Column('sample', np.float16, (3,), moves=True),
    'loc_seq': Column('shape', np.float64, (3,), moves=True),
    'scale_seq': Column('shape', np.float64, moves=True),
    'loc': Column('shape', np.float64, (3,)),
    'scale': Column('shape', np.float64),
    'ambiguous': Column('shape', np.float64),
    'recipe': Column('shape', np.uint8, (32,)),
    'colours': Column('sample', np.uint8, (3,), required=False),
    'image': Column('view', np.uint8, (VIEW_SIZE, VIEW_SIZE, 3), required=False, is_picture=True),
    'alpha': Column('view', np.uint8, (VIEW_SIZE, VIEW_SIZE), required=False, is_picture=True),
    'depth': Column('view', np.uint16, (VIEW_SIZE, VIEW_SIZE), required=False, is_picture=True),
    'world_mat': Column('view', np.float32, (3, 4), required=False),
    'camera_mat': Column('view', np.float32, (3, 3), required=False),
    'image_seq': Column('view', np.uint8, (FRAME_SIZE, FRAME_SIZE, 3), required=False, is_picture=True, moves=True),
    'pixel': Column('ray', np.float32, (2,)),
    'rgba': Column('ray', np.uint8, (4,)),
    'extrinsic': Column('ray', np.float32, (3, 4)),
    'intrinsic': Column('ray', np.float32, (3, 3)),
    'bounds': Column('ray', np.float32, (2,)),
    'extent': Column('ray', np.float32, (2,)),
}
SHAPE_COLUMNS = tuple(name for name, column in COLUMNS.items() if not column.moves and column.per != 'ray')
SEQUENCE_COLUMNS = tuple(name for name, column in COLUMNS.items() if column.moves or name == 'recipe')
NO_RECIPE = np.zeros(32, np.uint8)

_Shape: Any
_Shape = namedtuple(  # type: ignore[misc, no-redef]  # its fields are those of the schema
    '_Shape',
    ('category', 'name', *SHAPE_COLUMNS),
    # `ambiguous`, `recipe` and what follows
    defaults=(np.float64(0), NO_RECIPE, *(None for name in SHAPE_COLUMNS[SHAPE_COLUMNS.index('recipe') + 1 :])),
)
_ShapeSequence: Any
_ShapeSequence = namedtuple(  # type: ignore[misc, no-redef]  # as of `_Shape`
    '_ShapeSequence', ('category', 'name', *SEQUENCE_COLUMNS), defaults=(NO_RECIPE, None)
)


class Shape(_Shape):
    """One shape: category, name and its columns in object coordinates, None for those that it lacks.

    In the frame of its own file, rotated to y up, a point is at loc + scale * point. A column of images is a tuple of V files.
    """

    __slots__ = ()


class ShapeSequence(_ShapeSequence):
    """A shape that moves: category, name and its columns, each frame in its own object coordinates; None for what it lacks.

    In the frame of its own file, a point of frame k is at loc_seq[k] + scale_seq[k] * point. A column of images is a tuple of
    F V files, those of a frame beside each other.
    """

    __slots__ = ()


class Layout(NamedTuple):
    """What the examples of a dataset are."""

    name: str  # in `dataset.json`, and of the folder of its files
    example: type  # category, name and the columns of one
    columns: tuple[str, ...]  # that it can have
    counted: dict[str, str]  # columns of length T, N and V, and F

    def path(self, data_dir: str | Path, category: str, name: str) -> Path:
        """Where an example is stored."""
        return Path(data_dir) / self.name / category / f'{name}.npz'

    @property
    def noun(self) -> str:
        """What messages call an example."""
        return self.name.removesuffix('s')

    def present(self, example: Any) -> tuple[str, ...]:
        """The columns that an example has, in the order of the schema."""
        return tuple(name for name in self.columns if getattr(example, name) is not None)


SHAPES = Layout('shapes', Shape, SHAPE_COLUMNS, {'point': 'points', 'sample': 'surface', 'view': 'image'})
SEQUENCES = Layout(
    'sequences',
    ShapeSequence,
    SEQUENCE_COLUMNS,
    {'frame': 'scale_seq', 'point': 'points_seq', 'sample': 'pcl_seq', 'view': 'image_seq'},
)
LAYOUTS = {layout.name: layout for layout in (SHAPES, SEQUENCES)}
