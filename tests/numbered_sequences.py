"""A dataset of sequences in which every point carries its number, frame and sequence; written in a moment."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from onet_jax.data import records
from onet_jax.data.records import Index
from onet_jax.data.schema import SEQUENCES, ShapeSequence

NUM_POINTS, NUM_SAMPLES = 4096, 6144  # two chunks of points, three of samples
LENGTHS = {('cat', '0'): 6, ('cat', '1'): 9, ('dog', '0'): 4, ('dog', '1'): 7, ('dog', '2'): 2}
SPLITS = {'train': (('cat', '0'), ('dog', '0'), ('dog', '2')), 'val': (('cat', '1'), ('dog', '1')), 'test': ()}


def write_numbered_sequences(data_dir: Path, **changes) -> Path:
    """A folder with the sequences and the index; changes: of the index."""
    for number, (name, num_frames) in enumerate(LENGTHS.items()):
        path = records.sequence_path(data_dir, *name)
        records.write_example(SEQUENCES, path, make_sequence(number, name, num_frames))
    index = Index(
        ('cat', 'dog'),
        SPLITS,
        tuple(name for name in SEQUENCES.columns if name != 'image_seq'),
        *(NUM_POINTS, NUM_SAMPLES, 0, {}, {'kind': 'numbered'}, 'numbered', 'sequences'),
        {'/'.join(name): num_frames for name, num_frames in LENGTHS.items()},
    )
    records.write_index(data_dir, index._replace(**changes))
    return data_dir


def make_sequence(number: int, name: tuple[str, str], num_frames: int) -> ShapeSequence:
    """Number `number`; a point is inside where its number and frame are both odd or both even."""
    frames = np.arange(num_frames)[:, None]
    return ShapeSequence(
        *name,
        points_seq=encode(number, frames, np.arange(NUM_POINTS)),
        occ_seq=(np.arange(NUM_POINTS) + frames) % 2 == 0,
        pcl_seq=encode(number, frames, np.arange(NUM_SAMPLES)),
        loc_seq=np.zeros((num_frames, 3)),
        scale_seq=np.ones(num_frames),
    )


def encode(number, frame, i) -> np.ndarray:
    """Point i of a frame of a sequence: [..., 3] float16, all different."""
    return np.stack(np.broadcast_arrays(i % 64, i // 64, 16 * number + frame), axis=-1).astype(np.float16) / 64


def decode(points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the sequences, the frames and the points, [...] each."""
    x, y, z = np.moveaxis(np.round(64 * np.asarray(points, np.float64)).astype(int), -1, 0)
    return z // 16, z % 16, x + 64 * y


def make_config(**data) -> ConfigDict:
    """A config as one of Occupancy Flow has it, without noise."""
    known = {
        'feed': 'resident',
        'inputs': ('clip',),
        'targets': ('start_points', 'later_points', 'trajectories'),
        'num_frames': 4,
        'num_input_points': 30,
        'noise_std': 0.0,
        'corresponding': True,
        'keep_outliers': False,
        'num_points_per_step': 50,
        'num_trajectories': 20,
    }
    return ConfigDict(
        {'seed': 0, 'data': known | data, 'eval': {'targets': ('volume_clip', 'trajectories'), 'batch_size': 2}}
    )
