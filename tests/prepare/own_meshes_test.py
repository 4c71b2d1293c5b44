import numpy as np
import pytest
import trimesh
from mesh_files import box_with_hole, copy_of, plate, save
from trimesh.transformations import translation_matrix

from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.geometry import solid
from onet_jax.geometry.inside import contains
from onet_jax.geometry.meshes import UPS
from onet_jax.geometry.solid import make_solid
from onet_jax.prepare import own_meshes, procedural
from onet_jax.prepare.own_meshes import find_meshes, prepare_meshes
from onet_jax.prepare.runners import in_this_process, processes

pytestmark = pytest.mark.usefixtures('frozen_heap')
SETTINGS = {'num_points': 2100, 'num_views': 0, 'seed': 0, 'val_fraction': 0.25, 'test_fraction': 0.25}


def read(data_dir, category, name):
    return records.read_shape(records.shape_path(data_dir, category, name))


def read_all(data_dir):
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in sorted(data_dir.rglob('*.npz'))}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Seats in every format and depth; cases, of which half are copies of two; files that hold no mesh."""
    root = tmp_path_factory.mktemp('meshes')
    for i, file in enumerate(('a.off', 'b.obj', 'old/c.ply', 'old/very old/d.STL', 'e.glb', 'e.off')):
        save(procedural.make_shape(0, 'sofa', i).mesh(), root / 'seat' / file)
    for i in range(4):
        save(plate(i), root / 'case' / f'plate{i}.off')
    for width in (0.2, 0.4):
        for seed in range(2):
            save(copy_of(box_with_hole(width), seed), root / 'case' / f'hole{width}' / f'{seed}.ply')
    save(copy_of(box_with_hole(0.2), 2, subdivide=False), root / 'seat/hole.obj')
    save(box_with_hole(0.35), root / 'lonely.stl')
    content = (root / 'seat/old/c.ply').read_bytes()
    (root / 'seat/cut.ply').write_bytes(content[: len(content) // 2])
    (root / 'seat/empty.off').write_bytes(b'')
    save(trimesh.creation.box((1, 1, 0)), root / 'seat/flat.off')
    (root / 'seat/notes.txt').write_text('no mesh')
    return root


@pytest.fixture(scope='module')
def made(root, tmp_path_factory):
    """A dataset of `root`, and its index."""
    data_dir = tmp_path_factory.mktemp('made')
    return data_dir, prepare_meshes(root, data_dir, **SETTINGS, run=in_this_process)


@pytest.mark.slow
def test_every_mesh_is_a_shape_or_rejected_with_the_reason(root, made):
    data_dir, index = made
    assert index == records.read_index(data_dir)
    assert index.categories == ('case', root.name, 'seat')
    shapes = sum(index.splits.values(), ())
    assert sorted(shapes) == sorted(
        [(root.name, 'lonely')]
        + [('case', f'plate{i}') for i in range(4)]
        + [('case', f'hole{width}-{seed}') for width in (0.2, 0.4) for seed in range(2)]
        + [('seat', name) for name in ('a', 'b', 'e', 'e-off', 'hole', 'old-c', 'old-very_old-d')]
    )
    assert len(read_all(data_dir)) == len(shapes)
    assert list(index.rejected) == ['seat/cut', 'seat/empty', 'seat/flat']
    assert f'{root}/seat/cut.ply: expected 154 rows of the element' in index.rejected['seat/cut']
    assert f'{root}/seat/empty.off: expected OFF and the numbers of vertices' in index.rejected['seat/empty']
    assert 'expected a solid, found a flat one' in index.rejected['seat/flat']
    assert (index.num_points, index.num_surface_points, index.num_views) == (2100, 2100, 0)
    assert index.columns == tuple(name for name in records.SHAPES.columns if records.COLUMNS[name].per != 'view')
    assert (index.source['kind'], index.source['root'], index.source['num_meshes']) == ('meshes', str(root), 19)
    for shape in shapes:
        assert records.read_shape(records.shape_path(data_dir, *shape), index).ambiguous == 0


def test_copies_of_one_shape_are_in_one_split(root, made):
    _, index = made
    split_of = {shape: split for split, shapes in index.splits.items() for shape in shapes}
    for width, others in ((0.2, [('seat', 'hole')]), (0.4, [])):
        copies = [('case', f'hole{width}-{seed}') for seed in range(2)] + others
        assert len({split_of[copy] for copy in copies}) == 1, copies
    held_out = [split for (category, _), split in split_of.items() if category == 'case' and split != 'train']
    assert sorted(held_out) == ['test', 'test', 'val', 'val'], 'a quarter of 8 each'


@pytest.mark.parametrize('name', ['a', 'b', 'old-c', 'old-very_old-d', 'e', 'e-off', 'hole'])
def test_shapes_are_normalised_and_know_the_way_back(root, made, name):
    path = find_meshes(root)['seat', name]
    mesh = own_meshes.load_mesh(path)
    shape = read(made[0], 'seat', name)
    low, high = mesh.bounds
    np.testing.assert_allclose(shape.loc, (low + high) / 2, atol=1e-6 * shape.scale)
    assert shape.scale == pytest.approx((high - low).max())
    surface, normals = shape.surface.astype(np.float64), shape.normals.astype(np.float64)
    assert np.abs(surface).max() <= 0.5003

    def inside(points):
        return contains(mesh, shape.loc + shape.scale * points)

    assert (inside(shape.points.astype(np.float64)) == shape.occ).mean() > 0.999
    assert inside(surface - 2e-3 * normals).mean() > 0.99
    assert inside(surface + 2e-3 * normals).mean() < 0.01


@pytest.mark.slow
def test_workers_and_interruptions_do_not_change_the_result(root, made, tmp_path):
    data_dir, index = made
    expected = read_all(data_dir)
    assert prepare_meshes(root, tmp_path, **SETTINGS, run=processes(1)) == index
    assert read_all(tmp_path) == expected

    cut, lost, *kept = sorted(tmp_path.rglob('*.npz'))
    before = [path.stat().st_mtime_ns for path in kept]
    cut.write_bytes(cut.read_bytes()[:1000])
    lost.unlink()
    (tmp_path / 'dataset.json').unlink()
    assert prepare_meshes(root, tmp_path, **SETTINGS, run=in_this_process) == index
    assert read_all(tmp_path) == expected
    assert [path.stat().st_mtime_ns for path in kept] == before, 'finished shapes are not made again'
    with pytest.raises(InputError, match='found other settings: seed 0 instead of 1'):
        prepare_meshes(root, tmp_path, **{**SETTINGS, 'seed': 1}, run=in_this_process)
    with pytest.raises(InputError, match="found other settings: up 'y' instead of 'z'"):
        prepare_meshes(root, tmp_path, **SETTINGS, up='z', run=in_this_process)


def test_views_and_sampling_of_the_training_shapes(tmp_path):
    for i in range(4):
        save(plate(i), tmp_path / f'meshes/case/{i}.off')
    settings = {**SETTINGS, 'num_views': 2, 'sampling': 'equal'}
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **settings, run=in_this_process)
    assert index.num_views == 2
    assert [len(index.splits[split]) for split in records.SPLITS] == [2, 1, 1]
    for split, shapes in index.splits.items():
        for name in shapes:
            shape = records.read_shape(records.shape_path(tmp_path / 'data', *name), index)
            assert (shape.occ.mean() == 0.5) == (split == 'train')
            assert all((alpha > 0).mean() > 0.02 for alpha in records.decode_views('', 'alpha', shape.alpha))


def test_the_up_axis_of_the_files_becomes_y(tmp_path):
    mesh = trimesh.creation.cone(0.5, 2)  # around z, its tip up
    mesh.apply_translation((3, 4, 5))
    save(mesh, tmp_path / 'meshes/hat/a.off')
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **SETTINGS, up='z', run=in_this_process)
    assert index.splits == {'train': (('hat', 'a'),), 'val': (), 'test': ()}
    shape = read(tmp_path / 'data', 'hat', 'a')
    x, y, z = shape.surface.astype(np.float64).T
    np.testing.assert_allclose(np.hypot(x, z)[y > -0.49], ((0.5 - y) / 4)[y > -0.49], atol=3e-3)
    # loc and scale lead to the file turned upright.
    in_file = (shape.loc + shape.scale * shape.points.astype(np.float64)) @ UPS['z']
    assert (contains(mesh, in_file) == shape.occ).mean() > 0.999
    np.testing.assert_allclose(shape.loc, [3, 6, -4], atol=1e-6)
    assert shape.scale == pytest.approx(2)
    for turn in UPS.values():
        assert np.linalg.det(turn) == pytest.approx(1)


def test_scenes_and_names_of_files(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(), node_name='here')
    scene.add_geometry(trimesh.creation.box(), node_name='there', transform=translation_matrix([3, 0, 0]))
    save(scene, tmp_path / 'a b/x y.glb')
    for path in ('a b/x/y.ply', 'a b/x y.PLY', '.hidden/.y.stl', '.hidden/._y.stl', 'ä/ö.off'):
        save(trimesh.creation.box(), tmp_path / path)
    (tmp_path / 'ä/notes.off').mkdir()
    (tmp_path / 'ä/ö.mtl').write_text('newmtl a')
    assert {key: path.relative_to(tmp_path).as_posix() for key, path in find_meshes(tmp_path).items()} == {
        ('hidden', 'y'): '.hidden/.y.stl',
        ('a_b', 'x_y'): 'a b/x y.PLY',
        ('a_b', 'x_y-glb'): 'a b/x y.glb',
        ('a_b', 'x-y'): 'a b/x/y.ply',
        ('ä', 'ö'): 'ä/ö.off',
    }
    two = make_solid(own_meshes.load_mesh(tmp_path / 'a b/x y.glb'))
    np.testing.assert_allclose(two.loc, [1.5, 0, 0])
    assert two.scale == pytest.approx(4)
    np.testing.assert_array_equal(two.contains(np.array([[-0.375, 0, 0], [0, 0, 0], [0.375, 0, 0]])), [1, 0, 1])
    save(trimesh.creation.box(), tmp_path / 'a b/x_y.ply')
    save(trimesh.creation.box(), tmp_path / 'a b/x,y.ply')
    with pytest.raises(
        InputError, match=r'x_y\.ply: expected another name than that of .*x,y\.ply; rename one of them'
    ):
        find_meshes(tmp_path)


def test_a_name_that_no_file_system_holds_is_rejected(tmp_path):
    long = tmp_path / 'meshes' / 'case' / ('a' * 150) / f'{"b" * 100}.off'
    save(plate(0), long)
    save(plate(1), tmp_path / 'meshes/case/c.off')
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **SETTINGS, run=in_this_process)
    assert index.splits['train'] == (('case', 'c'),)
    assert list(index.rejected.values()) == [
        f'{long}: expected a name of at most 200 bytes below its category, found {"a" * 150 + "-" + "b" * 100!r}; shorten it'
    ]


def write_lists(folder, **lists):
    folder.mkdir(parents=True)
    for split in records.SPLITS:
        (folder / f'{split}.lst').write_text(lists.get(split, ''))


def test_splits_may_be_given_as_lists(tmp_path):
    for name in ('a.off', 'b/model.off', 'c d.off', 'e.off', 'f.off'):
        save(plate(len(name)), tmp_path / 'meshes/case' / name)
    (tmp_path / 'meshes/case/broken.off').write_text('OFF')
    write_lists(tmp_path / 'lists/case', train='a\n\nb\n', val='c d\r\nbroken\n', test='e\nmissing')
    settings = {**SETTINGS, 'lists': tmp_path / 'lists'}
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **settings, run=in_this_process)
    assert index.splits == {
        'train': (('case', 'a'), ('case', 'b-model')),
        'val': (('case', 'c_d'),),
        'test': (('case', 'e'),),
    }, 'a and f are copies, but a list is a list'
    assert len(read_all(tmp_path / 'data')) == 4
    assert 'case/broken' in index.rejected
    assert index.source['lists'] == str(tmp_path / 'lists')

    (tmp_path / 'lists/case/val.lst').write_text('a\n')
    with pytest.raises(InputError, match=r"val.lst: expected every name in one list, found 'a' in .*train.lst"):
        prepare_meshes(tmp_path / 'meshes', tmp_path / 'twice', **settings, run=in_this_process)
    (tmp_path / 'lists/case/val.lst').unlink()
    with pytest.raises(FileNotFoundError, match=r'case/val.lst: expected a list of names, one a line'):
        prepare_meshes(tmp_path / 'meshes', tmp_path / 'none', **settings, run=in_this_process)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'sampling': 'nearby'}, r"sampling: expected one of \('uniform', .*found 'nearby'"),
        ({'up': 'w'}, r"up: expected one of \['x', 'y', 'z'\], found 'w'"),
        ({'val_fraction': 0.6, 'test_fraction': 0.4}, 'expected shares of less than 1 in all, found 0.6, 0.4'),
        ({'test_fraction': -0.1}, 'expected shares of less than 1 in all, found 0.25, -0.1'),
    ],
)
def test_settings_that_make_no_dataset_are_refused(root, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        prepare_meshes(root, tmp_path / 'data', **{**SETTINGS, **change}, run=in_this_process)
    assert not (tmp_path / 'data').exists()


def test_nothing_to_prepare(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: expected a folder of meshes, found none'):
        prepare_meshes(tmp_path / 'nowhere', tmp_path / 'data', **SETTINGS)
    (tmp_path / 'meshes/case').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r'meshes: expected files ply\|obj\|.* in it, found none'):
        prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **SETTINGS)
    (tmp_path / 'meshes/case/a.off').write_text('OFF')
    with pytest.raises(
        InputError, match=r'expected a shape that can be made, found none, 1 rejected; case/a: .*a\.off'
    ):
        prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **SETTINGS, run=in_this_process)


def test_what_a_library_stumbles_over_is_rejected_and_a_full_disk_stops_the_run(tmp_path, monkeypatch):
    for i in range(3):
        save(plate(i), tmp_path / f'meshes/case/{i}.off')
    close = solid.close

    def stumble(mesh):
        which = round(100 * np.ptp(mesh.vertices, axis=0)[1]) - 30
        if which:
            raise (IndexError('list index out of range'), ValueError('zero-size array'))[which - 1]
        return close(mesh)

    monkeypatch.setattr(solid, 'close', stumble)
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **SETTINGS, run=in_this_process)
    assert index.rejected == {
        'case/1': f'{tmp_path}/meshes/case/1.off: IndexError: list index out of range',
        'case/2': f'{tmp_path}/meshes/case/2.off: ValueError: zero-size array',
    }

    def write(layout, path, shape):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(records, 'write_example', write)
    with pytest.raises(OSError, match='No space left'):
        prepare_meshes(tmp_path / 'meshes', tmp_path / 'full', **SETTINGS, run=in_this_process)
    assert not (tmp_path / 'full/dataset.json').exists()
