import re

import numpy as np
import pytest
import trimesh
from numbered_sequences import make_config

from onet_jax.data import records
from onet_jax.data.datasets import open_dataset
from onet_jax.data.schema import SEQUENCES
from onet_jax.errors import InputError
from onet_jax.geometry.inside import contains
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.prepare.check import check_dataset
from onet_jax.prepare.embedded import embedded_dataset, prepare_moving
from onet_jax.prepare.own_sequences import prepare_sequences
from onet_jax.prepare.runners import in_this_process
from onet_jax.prepare.sequence_sampling import sample_sequence

SIZES = {'seed': 0, 'num_points': 2100}
SETTINGS = {**SIZES, 'val_fraction': 0.2, 'test_fraction': 0.2, 'run': in_this_process}


def make_swimmer(num_frames=4, stride=0.0):
    """A closed capsule that bends as it goes: x' = x + stride k + sin. Its mesh stays closed."""
    body = trimesh.creation.capsule(height=1.0, radius=0.3, count=(12, 12))
    frames = []
    for k in range(num_frames):
        bent = np.array(body.vertices)
        bent[:, 0] += stride * k + 0.3 * np.sin(k) * bent[:, 2] ** 2
        frames.append(bent * (1 + 0.1 * k))
    return MeshSequence(np.array(frames), np.array(body.faces))


def to_own(sequence, k, points):
    return sequence.loc_seq[k] + sequence.scale_seq[k] * points.astype(np.float64)


def test_labels_places_and_frames_are_those_of_the_meshes():
    """A figure that leaves the box of its first frame: each frame is in its own one, and the loc says where it is."""
    moving = make_swimmer(stride=3.0)
    made = sample_sequence(moving, 'fish', 'a', **SIZES)
    assert made.points_seq.shape == made.pcl_seq.shape == (4, 2100, 3)
    faces = None
    for k in range(4):
        mesh = moving.mesh(k)
        low, high = mesh.bounds
        np.testing.assert_allclose(made.loc_seq[k], (low + high) / 2)
        np.testing.assert_allclose(made.scale_seq[k], (high - low).max())
        np.testing.assert_array_equal(made.occ_seq[k], contains(mesh, to_own(made, k, made.points_seq[k])))
        assert np.abs(made.points_seq[k]).max() <= 0.55
        _, distance, face = trimesh.proximity.closest_point_naive(mesh, to_own(made, k, made.pcl_seq[k, :50]))
        assert distance.max() < 2e-3 * made.scale_seq[k], 'on the surface, rounded to float16'
        faces = face if faces is None else faces
        assert np.mean(face == faces) > 0.8, 'the same place of the body; beside an edge rounding decides'
    assert (made.loc_seq[3] - made.loc_seq[0])[0] > 9
    again = sample_sequence(moving, 'fish', 'a', **SIZES)
    for name in SEQUENCES.columns:
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
    seen = sample_sequence(moving, 'fish', 'a', **SIZES, num_views=2).image_seq
    drawn = [records.decode_picture('image_seq', content).min(axis=2) < 250 for content in seen]
    assert len(seen) == 4 * 2
    assert all(0.001 < mask.mean() < 0.2 for mask in drawn), 'the cameras see the whole way'
    near = sample_sequence(moving, 'fish', 'a', **SIZES, sampling='surface')
    assert near.occ_seq.mean() > 1.5 * made.occ_seq.mean()


def test_overlapping_parts_are_one_body_and_hide_their_surface():
    """Two spheres, one of them inside out, that overlap; the labels are those of the union."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    faces = np.concatenate([ball.faces, ball.faces[:, ::-1] + len(ball.vertices)])
    centres = np.array([[0.0, 0, 0], [1, 0, 0]])
    frames = [
        np.concatenate([ball.vertices + centres[0], ball.vertices + (1 - 0.2 * k) * centres[1]]) for k in range(3)
    ]
    made = sample_sequence(MeshSequence(np.array(frames), faces), 'two', 'balls', **SIZES)
    for k in range(3):
        points = to_own(made, k, made.points_seq[k])
        apart = np.linalg.norm(points[:, None] - (1 - 0.2 * k * np.array([[0], [1]])) * centres, axis=2).min(axis=1)
        sure = np.abs(apart - 1) > 0.03
        np.testing.assert_array_equal(made.occ_seq[k][sure], apart[sure] < 1)
    places = to_own(made, 0, made.pcl_seq[0])
    assert np.linalg.norm(places[:, None] - centres, axis=2).min(axis=1).min() > 0.95, 'none inside the other ball'


def test_a_mesh_with_a_hole_is_closed_frame_by_frame():
    moving = make_swimmer(2)
    whole = sample_sequence(moving, 'fish', 'a', **SIZES)
    cut = sample_sequence(moving._replace(faces=moving.faces[:-2]), 'fish', 'a', **SIZES)
    assert np.mean(cut.occ_seq == whole.occ_seq) > 0.99


def broken(**changes):
    moving = make_swimmer()
    vertices = moving.vertices.copy()
    if 'nan' in changes:
        vertices[2, 5, 1] = np.nan
    if 'flat' in changes:
        vertices[1] = 0
    return moving._replace(vertices=vertices[: changes.get('frames')], faces=changes.get('faces', moving.faces))


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'nan': True}, 'frame 2: expected finite vertices, found NaN or infinity in 1 of'),
        ({'frames': 1}, 'expected at least 2 frames, found 1'),
        ({'flat': True}, 'frame 1: expected vertices that are not all one, found a box of edge 0'),
        ({'faces': np.zeros((0, 3), int)}, r'expected vertices \[F, V, 3\] and triangles'),
        ({'faces': np.array([[0, 1, 999]])}, 'expected indices of .* vertices, found 0 to 999'),
        ({'faces': np.array([[0, 1, 2]])}, 'frame 0: mesh: expected'),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(changes, message):
    with pytest.raises(InputError, match=message):
        sample_sequence(broken(**changes), 'fish', 'a', **SIZES)


def write_frames(folder, moving, numbers=None):
    folder.mkdir(parents=True)
    for number, k in enumerate(range(len(moving.vertices)) if numbers is None else numbers):
        moving.mesh(k).export(folder / f'{k if numbers else number:03d}.obj')


def test_a_folder_of_sequences_becomes_a_dataset_and_what_is_wrong_with_one_is_listed(tmp_path):
    root, data_dir = tmp_path / 'moving', tmp_path / 'data'
    for i in range(5):
        write_frames(root / 'fish' / f'{i}', make_swimmer(4 + i % 2, stride=0.1 * i))
    write_frames(root / 'fish' / 'gap', make_swimmer(5), [0, 1, 3, 4])
    write_frames(root / 'fish' / 'changing', make_swimmer(3))
    trimesh.creation.box().export(root / 'fish' / 'changing' / '001.obj')
    index = prepare_sequences(root, data_dir, **SETTINGS)
    assert set(index.rejected) == {'fish/gap', 'fish/changing'}
    assert '002' in index.rejected['fish/gap'] or ' 2' in index.rejected['fish/gap']
    assert 'faces' in index.rejected['fish/changing']
    kept = [name for split in index.splits.values() for name in split]
    assert sorted(kept) == [('fish', f'{i}') for i in range(5)]
    assert sorted(index.num_frames.values()) == [4, 4, 4, 5, 5]
    assert (index.num_points, index.num_views) == (2100, 0)
    assert not check_dataset(data_dir, in_this_process).problems
    written = {path: path.stat().st_mtime_ns for path in data_dir.rglob('*.npz')}
    assert prepare_sequences(root, data_dir, **SETTINGS) == index
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob('*.npz')} == written, 'nothing is made again'
    with pytest.raises(InputError, match='expected an empty folder or a dataset of the same settings'):
        prepare_sequences(root, data_dir, **{**SETTINGS, 'seed': 1})


def test_samples_that_do_not_correspond_are_found(tmp_path):
    write_frames(tmp_path / 'moving' / 'fish', make_swimmer())
    prepare_sequences(tmp_path / 'moving', tmp_path / 'data', **{**SETTINGS, 'val_fraction': 0.0, 'test_fraction': 0.0})
    dataset = open_dataset(tmp_path / 'data')
    (name,) = dataset.names('train')
    sequence, path = dataset.read(*name), records.sequence_path(dataset.data_dir, *name)
    mixed = sequence.pcl_seq.copy()
    mixed[3] = mixed[3][np.random.default_rng(0).permutation(2100)]
    for changes, message in (
        ({'pcl_seq': mixed}, 'frame 3: pcl_seq: .* do not correspond'),
        ({'occ_seq': np.ones_like(sequence.occ_seq)}, 'frame 0: occ: expected a share inside'),
    ):
        records.write_example(SEQUENCES, path, sequence._replace(**changes))
        (problem,) = check_dataset(dataset.data_dir, in_this_process).problems.values()
        assert re.search(message, problem)


def test_the_embedded_sequences_are_those_of_the_config(tmp_path, monkeypatch):
    monkeypatch.setenv('ONET_JAX_CACHE', str(tmp_path / 'cache'))
    sizes = {'num_shapes_per_family': 3, 'num_points': 2100, 'val_fraction': 0.3, 'test_fraction': 0.3}
    made = prepare_moving(tmp_path / 'a', families=['mechanism'], seed=3, num_frames=5, run=in_this_process, **sizes)
    assert made.splits == {split: (('mechanism', f'{i:06d}'),) for i, split in enumerate(('train', 'val', 'test'))}
    config = make_config(families=('mechanism',), num_stored_frames=5, dataset_seed=3, **sizes)
    data_dir = embedded_dataset(config.data)
    assert open_dataset(data_dir).index.content == made.content
    assert embedded_dataset(config.data) == data_dir
    with pytest.raises(InputError, match=r"families: expected different names of .*'human'.*, found \['chair'\]"):
        embedded_dataset(make_config(families=('chair',), num_stored_frames=5, dataset_seed=3, **sizes).data)
