import numpy as np
import pytest
import trimesh

from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.runners import in_this_process

pytestmark = pytest.mark.usefixtures('frozen_heap')


def test_lists_name_meshes_and_what_they_lack_is_reported(tmp_path, capsys):
    """Names of meshes or of their folders; a name without a mesh is rejected, copies in two splits are reported."""
    for name, size in (('a', 1), ('b', 2), ('model-c/model', 1), ('d', 3), ('e', 4)):
        path = tmp_path / 'in' / 'box' / f'{name}.off'
        path.parent.mkdir(parents=True, exist_ok=True)
        mesh = trimesh.creation.box((1, 1, size))
        faces = np.concatenate([mesh.faces, mesh.faces[:, ::-1]]) if name == 'a' else mesh.faces
        trimesh.Trimesh(mesh.vertices, faces, process=False).export(path)
    lists = tmp_path / 'lists' / 'box'
    lists.mkdir(parents=True)
    # One begins with a byte order mark and has the line ends of Windows.
    for split, names in (('train', '\ufeffa\r\nb\r\n'), ('val', 'd\n'), ('test', 'model-c\ntypo\n')):
        (lists / f'{split}.lst').write_text(names, encoding='utf-8', newline='')
    for extra in ('in/box/._a.off', 'in/__MACOSX/box/a.off'):  # of an archive made by macOS
        (tmp_path / extra).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / extra).write_bytes(b'\x00\x05\x16\x07')
    settings = {'num_points': 2100, 'num_views': 0, 'seed': 0, 'val_fraction': 0, 'test_fraction': 0}
    out = tmp_path / 'out'
    index = prepare_meshes(tmp_path / 'in', out, **settings, lists=lists.parent, run=in_this_process)
    assert index.splits == {
        'train': (('box', 'a'), ('box', 'b')),
        'val': (('box', 'd'),),
        'test': (('box', 'model-c-model'),),
    }
    assert index.rejected == {'box/typo': f'{lists}/test.lst: expected the name of a mesh, found none of this name'}
    said = capsys.readouterr().out
    assert 'copies of one shape in several splits: box/a (train), box/model-c-model (test)' in said
    assert f'{lists.parent}: expected every mesh in a list, found 1 in none: box/e' in said
    with pytest.raises(FileNotFoundError, match=r'nowhere/box/train.lst: expected a list'):
        prepare_meshes(tmp_path / 'in', tmp_path / 'new', **settings, lists=tmp_path / 'nowhere')
    assert not (tmp_path / 'new').exists(), 'the folder is not claimed by a run that cannot start'
