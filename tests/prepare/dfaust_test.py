import re
import shutil

import numpy as np
import pytest
from numbered_sequences import LENGTHS, NUM_POINTS, NUM_SAMPLES, SPLITS, write_numbered_sequences

from onet_jax.data import records
from onet_jax.data.datasets import open_dataset
from onet_jax.data.records import encode_picture
from onet_jax.data.schema import FRAME_SIZE, SEQUENCES
from onet_jax.errors import InputError
from onet_jax.prepare.dfaust import export_dfaust, import_dfaust, read_original, write_original
from onet_jax.prepare.own_sequences import prepare_sequences
from onet_jax.prepare.runners import in_this_process


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Numbered sequences, in the cube, with pictures."""
    data_dir = write_numbered_sequences(tmp_path_factory.mktemp('numbered'))
    dataset, picture = open_dataset(data_dir), encode_picture(np.full((FRAME_SIZE, FRAME_SIZE, 3), 7, np.uint8))
    for name, num_frames in LENGTHS.items():
        sequence = dataset.read(*name)
        points = {key: (getattr(sequence, key) / 4 - 0.5).astype(np.float16) for key in ('points_seq', 'pcl_seq')}
        loc = np.arange(3.0) + np.arange(num_frames)[:, None] / 3
        pictures = tuple(picture + bytes([view]) for _ in range(num_frames) for view in range(2))
        changed = sequence._replace(**points, loc_seq=loc, image_seq=pictures)
        records.write_example(SEQUENCES, records.sequence_path(data_dir, *name), changed)
    records.write_index(data_dir, dataset.index._replace(columns=SEQUENCES.columns, num_views=2))
    return open_dataset(data_dir)


def test_a_dataset_comes_back_from_the_layout_of_the_original_code(dataset, tmp_path):
    root = tmp_path / 'original'
    export_dfaust(dataset.data_dir, root)
    assert (root / 'cat' / 'train.lst').read_text() == '0'
    index = prepare_sequences(
        root, tmp_path / 'data', num_points=5000, seed=0, val_fraction=0.1, test_fraction=0.1, run=in_this_process
    )
    assert index.splits == SPLITS
    assert index.counts == {'shape': 1, 'point': NUM_POINTS, 'sample': 5000, 'view': 2}
    assert index.num_frames == dataset.index.num_frames
    assert index.source['first_frame'] == 15
    copy = open_dataset(tmp_path / 'data')
    for name in LENGTHS:
        stored, again = dataset.read(*name), copy.read(*name)
        assert again.image_seq == stored.image_seq
        for key in ('loc_seq', 'scale_seq'):
            np.testing.assert_array_equal(getattr(again, key), getattr(stored, key))
        read = read_original(root / name[0] / name[1])
        for key in SEQUENCES.columns[:5]:
            np.testing.assert_array_equal(getattr(read, key), getattr(stored, key))
    with pytest.raises(InputError, match='expected a new or an empty folder'):
        export_dfaust(dataset.data_dir, root)


def change(path, **arrays):
    with np.load(path) as archive:
        known = dict(archive)
    np.savez(path, **{**known, **arrays})


def rename(folder):
    (folder / 'pcl_seq/00000003.npz').rename(folder / 'pcl_seq/first.npz')


@pytest.mark.parametrize(
    'damage, message',
    [
        (
            lambda f: (f / 'pcl_seq/00000002.npz').unlink(),
            r'pcl_seq: expected the frame 00000002.npz .*00000003.npz next',
        ),
        (
            lambda f: (f / 'points_seq/00000005.npz').unlink(),
            r'the same frames in points_seq and pcl_seq, found 5 and 6',
        ),
        (rename, r'first.npz: expected a frame that is called by its number'),
        (lambda f: shutil.rmtree(f / 'points_seq'), r'points_seq: expected at least two frames'),
        (
            lambda f: change(f / 'pcl_seq/00000001.npz', loc=np.ones(3)),
            r"00000001.npz, key 'loc, scale': expected those of pcl_seq",
        ),
        (
            lambda f: change(f / 'pcl_seq/00000001.npz', points=np.ones((9, 3))),
            r"key 'points': expected 6144 as in the first",
        ),
        (
            lambda f: change(f / 'points_seq/00000001.npz', points=np.full((NUM_POINTS, 3), 2.0)),
            'at most 0.56, in the cube',
        ),
        (
            lambda f: change(f / 'points_seq/00000004.npz', points=np.full((NUM_POINTS, 3), np.nan)),
            'expected finite numbers',
        ),
        (
            lambda f: change(f / 'points_seq/00000004.npz', occupancies=np.zeros(9, np.uint8)),
            'expected 512 bytes, found 9',
        ),
        (lambda f: (f / 'img/001/00000002.jpg').unlink(), r'img: expected 6 pictures .* found 5'),
        (lambda f: (f / 'img/001/00000002.jpg').write_bytes(b'x'), r'00000002.jpg: expected a whole JPEG'),
        (lambda f: (f / 'pcl_seq/00000002.npz').write_bytes(b'x'), r'00000002.npz: expected an archive'),
    ],
)
def test_a_damaged_sequence_is_named(dataset, tmp_path, damage, message):
    write_original(tmp_path / 'cat' / '0', dataset.read('cat', '0'))
    damage(tmp_path / 'cat' / '0')
    with pytest.raises(InputError) as error:
        read_original(tmp_path / 'cat' / '0')
    assert re.search(message, str(error.value)), error.value


def test_what_differs_from_most_or_is_not_there_is_rejected(dataset, tmp_path):
    root = tmp_path / 'original'
    export_dfaust(dataset.data_dir, root)
    sequence = dataset.read('dog', '1')
    shutil.rmtree(root / 'dog' / '1')
    write_original(root / 'dog' / '1', sequence._replace(pcl_seq=sequence.pcl_seq[:, :100]))
    (root / 'dog' / 'test.lst').write_text('gone\n\n../cat\n')
    (root / 'dog' / 'test_new_individual.lst').write_text('0')
    index = import_dfaust(root, tmp_path / 'data', num_points=NUM_SAMPLES, run=in_this_process)
    assert index.splits == {**SPLITS, 'val': (('cat', '1'),), 'test_new_individual': (('dog', '0'),)}
    assert index.rejected.keys() == {'dog/1', 'dog/gone', 'dog/../cat'}
    assert 'expected 4096 labelled points, 6144 surface samples and 2 views as most' in index.rejected['dog/1']
    assert 'test.lst, line 1: expected a sequence, found no gone/pcl_seq' in index.rejected['dog/gone']
    with pytest.raises(FileNotFoundError, match='expected folders with lists'):
        import_dfaust(tmp_path / 'data', tmp_path / 'other', num_points=9, run=in_this_process)
