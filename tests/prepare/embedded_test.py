import json

import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import cdist

from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.prepare import embedded, procedural
from onet_jax.prepare.runners import in_this_process, processes

SETTINGS = {
    'families': ('mug',),
    'num_shapes_per_family': 3,
    'num_points': 2100,
    'seed': 0,
    'val_fraction': 0.3,
    'test_fraction': 0.3,
}


def read_all(data_dir):
    return {str(p.relative_to(data_dir)): p.read_bytes() for p in sorted(data_dir.rglob('*.npz'))}


def test_labels_are_exact_and_samples_lie_on_the_surface(dataset):
    for category, name in records.read_index(dataset).splits['train'][::4]:
        shape = records.read_shape(records.shape_path(dataset, category, name))
        solid = procedural.make_shape(0, category, int(name))
        np.testing.assert_array_equal(shape.occ, solid.contains(shape.points.astype(np.float64)))
        assert np.abs(shape.points).max() <= 0.5502
        surface, normals = shape.surface.astype(np.float64), shape.normals.astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=2e-3)
        assert solid.contains(surface - 2e-3 * normals).mean() > 0.99
        assert solid.contains(surface + 2e-3 * normals).mean() < 0.01
        volume = shape.occ.mean() * 1.1**3
        np.testing.assert_allclose(shape.voxels.mean(), volume, atol=0.03)


def test_points_lie_chunk_by_chunk_from_the_surface_outwards(dataset):
    shape = records.read_shape(records.shape_path(dataset, 'mug', '000000'))
    surface = trimesh.sample.sample_surface(procedural.make_shape(0, 'mug', 0).mesh(), 4000, seed=1)[0]
    distance = cdist(shape.points[:4096].astype(np.float64), surface).min(axis=1).reshape(2, 2048)
    for chunk in distance:
        assert chunk[:200].max() < np.sort(chunk)[200] + 0.04
        assert np.mean(np.diff(chunk) < -0.04) < 0.05
    inside = shape.occ[:4096].reshape(2, 2048).mean(axis=1)
    np.testing.assert_allclose(inside, shape.occ.mean(), atol=0.03)


@pytest.mark.slow
def test_workers_and_interruptions_do_not_change_the_result(tmp_path):
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    index = embedded.prepare_procedural(alone, **SETTINGS, run=in_this_process)
    assert {split: len(shapes) for split, shapes in index.splits.items()} == {'train': 1, 'val': 1, 'test': 1}
    embedded.prepare_procedural(together, **SETTINGS, run=processes(2))
    assert read_all(alone) == read_all(together)

    expected = read_all(alone)
    kept, cut, lost = sorted(alone.rglob('*.npz'))
    before = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:500])
    lost.unlink()
    (alone / 'dataset.json').unlink()
    assert embedded.prepare_procedural(alone, **SETTINGS, run=in_this_process) == index
    assert read_all(alone) == expected
    assert kept.stat().st_mtime_ns == before

    index = embedded.prepare_procedural(tmp_path / 'some', **SETTINGS, splits=('test',), run=in_this_process)
    assert index.splits.keys() == {'test'}
    some = read_all(tmp_path / 'some')
    assert len(some) == 1
    assert some.items() <= expected.items(), 'the same shapes'


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    embedded.prepare_procedural(tmp_path, **SETTINGS, run=in_this_process)
    with pytest.raises(
        InputError, match=r'found other settings: num_points 2100 instead of 2200; choose another folder'
    ):
        embedded.prepare_procedural(tmp_path, **{**SETTINGS, 'num_points': 2200}, run=in_this_process)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'families': ('mug', 'teapot')}, r"families: expected different names of .*found \['teapot'\]"),
        ({'families': ('mug', 'mug')}, 'more than once'),
        ({'num_shapes_per_family': 2}, r'expected at least one training shape .* found 2 in all'),
        ({'val_fraction': -0.1}, 'expected at least one training shape'),
    ],
)
def test_settings_that_make_no_dataset_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        embedded.prepare_procedural(tmp_path / 'data', **{**SETTINGS, **change}, run=in_this_process)
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('depth', [False, True])
def test_the_index_lists_the_columns_of_all_shapes(tmp_path, depth):
    settings = {**SETTINGS, 'num_points': 300, 'num_views': 1, 'depth': depth}
    index = embedded.prepare_procedural(tmp_path, **settings, run=in_this_process)
    assert index.columns == tuple(name for name in records.SHAPES.columns if depth or name != 'depth')
    assert index.counts == {'shape': 1, 'point': 300, 'sample': 300, 'view': 1}
    for name in sum(index.splits.values(), ()):
        shape = records.read_shape(records.shape_path(tmp_path, *name), index)
        assert records.SHAPES.present(shape) == index.columns
        assert len(np.unique(shape.colours, axis=0)) > 1


def test_other_errors_than_of_the_input_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(procedural, 'make_shape', lambda seed, family, index: np.zeros(2) @ np.zeros(3))
    with pytest.raises(ValueError, match='size 3 is different from 2'):
        embedded.prepare_procedural(tmp_path, **SETTINGS, run=in_this_process)


def test_a_shape_that_cannot_be_made_is_listed_with_its_reason(tmp_path, monkeypatch):
    make_shape = procedural.make_shape

    def make(seed, family, index):
        if index == 1:
            raise InputError('no such mug')
        return make_shape(seed, family, index)

    monkeypatch.setattr(procedural, 'make_shape', make)
    settings = {**SETTINGS, 'num_shapes_per_family': 4}
    index = embedded.prepare_procedural(tmp_path, **settings, run=in_this_process)
    assert index.rejected == {'mug/000001': 'no such mug'}
    assert ('mug', '000001') not in sum(index.splits.values(), ())
    assert records.read_index(tmp_path) == index


def test_the_embedded_dataset_is_cached(tmp_path, monkeypatch):
    from model_configs import small_config

    monkeypatch.setenv('ONET_JAX_CACHE', str(tmp_path))
    config = small_config().data
    with config.unlocked():
        config.update(families=('mug',), num_shapes_per_family=3, num_points=2100)
    monkeypatch.setattr('os.cpu_count', lambda: 1)
    data_dir = embedded.embedded_dataset(config)
    assert data_dir.parent == tmp_path
    assert json.loads((data_dir / 'dataset.json').read_text())['source']['families'] == ['mug']
    monkeypatch.setattr(embedded, 'prepare_procedural', None)
    assert embedded.embedded_dataset(config) == data_dir
    with config.unlocked():
        config.dataset_seed = 1
    with pytest.raises(TypeError):  # another dataset, which would have to be made
        embedded.embedded_dataset(config)
