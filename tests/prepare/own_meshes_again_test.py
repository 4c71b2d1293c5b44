"""A folder of meshes that is prepared again: after an interruption, or when meshes, lists or their faults have changed."""

import json
import os
import struct

import numpy as np
import pytest
import trimesh
from mesh_files import plate, save

from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.geometry import solid
from onet_jax.prepare import own_meshes
from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.runners import in_this_process
from onet_jax.prepare.store import recipe

pytestmark = pytest.mark.usefixtures('frozen_heap')
SETTINGS = {'num_points': 2100, 'num_views': 0, 'seed': 0, 'val_fraction': 0.25, 'test_fraction': 0.25}


@pytest.fixture
def prepare(tmp_path):
    """A function that prepares four plates, and one file that is no mesh, again and again."""
    for i in range(4):
        save(plate(i), tmp_path / f'meshes/case/{i}.off')
    (tmp_path / 'meshes/case/broken.off').write_text('OFF')

    def run(**options):
        return prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **SETTINGS, **options, run=in_this_process)

    return run


def times(data_dir):
    return {path.stem: path.stat().st_mtime_ns for path in (data_dir / 'shapes').rglob('*.npz')}


@pytest.mark.slow
def test_what_is_known_is_not_read_again(prepare, tmp_path, monkeypatch):
    """Neither good meshes nor bad ones, in either pass."""
    close = solid.close

    def reject_one(mesh):
        if np.ptp(mesh.vertices, axis=0)[1] == pytest.approx(0.31):
            raise InputError('it is not to our taste')
        return close(mesh)

    monkeypatch.setattr(solid, 'close', reject_one)
    index = prepare()
    assert index.rejected['case/1'] == 'it is not to our taste'
    assert 'broken.off: expected OFF and the numbers of vertices' in index.rejected['case/broken']
    monkeypatch.setattr(own_meshes, 'load_mesh', None)
    (tmp_path / 'data/dataset.json').unlink()
    assert prepare() == index


def test_a_damaged_note_is_made_again(prepare, tmp_path):
    index = prepare()
    notes = sorted((tmp_path / 'data').rglob('surfaces/case/*.json'))
    assert [path.stem for path in notes] == ['0', '1', '2', '3', 'broken']
    right = json.dumps({'recipe': json.loads(notes[3].read_text())['recipe'], 'invariants': [1, 2]})
    for path, content in zip(notes, ('', '{"recipe": ', '{}', right), strict=False):
        path.write_text(content)
    assert prepare() == index


def test_a_mesh_that_changed_is_made_again(prepare, tmp_path):
    index, before, digest = prepare(), times(tmp_path / 'data'), records.digest(tmp_path / 'data')
    save(plate(20), tmp_path / 'meshes/case/2.off')
    changed, after = prepare(), times(tmp_path / 'data')
    assert {name for name in before if before[name] != after[name]} == {'2'}
    assert changed.content != index.content
    assert records.digest(tmp_path / 'data') != digest, 'whatever was made of the shapes is made anew'
    surface = records.read_shape(records.shape_path(tmp_path / 'data', 'case', '2')).surface
    np.testing.assert_allclose(np.ptp(surface, axis=0)[1], 0.5, atol=2e-3)

    save(plate(2), tmp_path / 'meshes/case/2.off')
    assert prepare() == index


def test_a_mesh_that_was_repaired_is_taken(prepare, tmp_path):
    assert list(prepare().rejected) == ['case/broken']
    save(plate(9), tmp_path / 'meshes/case/broken.off')
    index = prepare()
    assert not index.rejected
    assert ('case', 'broken') in sum(index.splits.values(), ())
    save(trimesh.creation.box((1, 1, 0)), tmp_path / 'meshes/case/broken.off')
    assert 'found a flat one' in prepare().rejected['case/broken']
    assert ('case', 'broken') not in sum(records.read_index(tmp_path / 'data').splits.values(), ())


def test_shapes_that_change_their_split_change_their_sampling(prepare, tmp_path):
    lists = tmp_path / 'lists'
    (lists / 'case').mkdir(parents=True)

    def write_lists(**names):
        for split, content in names.items():
            (lists / 'case' / f'{split}.lst').write_text(content)

    def share_inside(name):
        return records.read_shape(records.shape_path(tmp_path / 'data', 'case', name)).occ.mean()

    write_lists(train='0\n1', val='2', test='3')
    prepare(lists=lists, sampling='equal')
    assert [share_inside(name) == 0.5 for name in '0123'] == [True, True, False, False]
    write_lists(train='0\n3', val='2', test='1')
    prepare(lists=lists, sampling='equal')
    assert [share_inside(name) == 0.5 for name in '0123'] == [True, False, False, True]


def test_what_a_mesh_file_names_belongs_to_it(tmp_path):
    """Materials, their textures and buffers, whatever they are called: a change makes the shape anew."""
    (tmp_path / 'parts').mkdir()
    (tmp_path / 'a.obj').write_text('mtllib parts/my colours.mtl\nv 0 0 0\n')
    buffers, images = '"buffers": [{"uri": "parts/b%20data.bin"}]', '"images": [{"uri": "parts/picture.png"}]'
    (tmp_path / 'b.gltf').write_text(f'{{{buffers}, {images}}}')
    content = f'{{{images}}}'.encode()
    header = struct.pack('<4sIIII', b'glTF', 2, 20 + len(content), len(content), 0x4E4F534A)
    (tmp_path / 'c.glb').write_bytes(header + content)
    (tmp_path / 'd.ply').write_text(
        'ply\nformat ascii 1.0\ncomment TextureFile texture.png\nelement vertex 0\nend_header\n'
    )
    (tmp_path / 'e.gltf').write_text('{"buffers": [[')

    meshes = sorted(tmp_path.glob('?.*'))

    def recipes():
        return {mesh.name: recipe(*own_meshes._made_from(str(mesh))) for mesh in meshes}

    before = recipes()
    assert recipes() == before
    for name, content, changed in (
        ('parts/my colours.mtl', 'map_Kd -s 1 1 1 wood.png', {'a.obj'}),
        ('parts/wood.png', 'brown', {'a.obj'}),
        ('parts/wood.png', 'black', {'a.obj'}),
        ('a.mtl', 'newmtl red', set()),
        ('parts/b data.bin', '0', {'b.gltf'}),
        ('parts/picture.png', '0', {'b.gltf', 'c.glb'}),
        ('texture.png', '0', {'d.ply'}),
        ('other.png', '0', set()),
    ):
        (tmp_path / name).write_text(content)
        after = recipes()
        assert {mesh for mesh in after if after[mesh] != before[mesh]} == changed, name
        before = after
    (tmp_path / 'broken.obj').symlink_to('nowhere')
    os.mkfifo(tmp_path / 'pipe.obj')
    for name, found in (('broken', 'a broken link'), ('pipe', 'a pipe or the like')):
        with pytest.raises(InputError, match=rf'{name}\.obj: expected a file, found {found}'):
            own_meshes._made_from(f'{tmp_path}/{name}.obj')
    with pytest.raises(InputError, match=r'none\.obj: expected a file that can be read'):
        own_meshes._made_from(f'{tmp_path}/none.obj')
