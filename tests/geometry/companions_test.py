from pathlib import Path

import numpy as np
from geometry.mesh_dialects import glb, stl
from PIL import Image

from onet_jax.geometry.companions import find_companions
from onet_jax.geometry.meshes import load_mesh

TRIANGLE = np.eye(3), [(0, 1, 2)]


def test_long_words_and_repeated_libraries_take_no_time(tmp_path):
    (tmp_path / 'a.mtl').write_text('map_' * 100_000)
    (tmp_path / 'a.obj').write_text('mtllib a.mtl\nmtllib ./a.mtl\n' * 1000)
    assert find_companions(tmp_path / 'a.obj') == [tmp_path / 'a.mtl']


def test_companions_are_the_files_that_the_reader_finds(tmp_path, monkeypatch):
    """Beside the file that names them, or below: not those of the same name, above or elsewhere."""
    folder = tmp_path / 'meshes'
    (folder / 'sub').mkdir(parents=True)
    for name in ('sub/a b.png', 'a b.png', '../above.png', 'a.bin', 'a.mtl'):
        Image.new('RGB', (1, 1)).save(folder / name, 'png')
    (folder / 'sub/c d.mtl').write_text(
        f'newmtl a\nmap_Kd a b.png\nnewmtl b\nmap_Kd ../a b.png\nmap_Kd {tmp_path}/above.png\n'
    )
    (folder / 'windows.mtl').write_text('newmtl c\nmap_Kd ../above.png\nmap_Kd sub\\a b.png\nmap_Kd ..\\above.png\n')
    libraries = f'mtllib sub/c d.mtl\nmtllib windows.mtl {"long " * 60}\n'
    (folder / 'a.obj').write_text(libraries + 'v 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl b\nf 1 2 3\n')
    document = glb(*TRIANGLE)
    (folder / 'b.bin').write_bytes(document.data)
    (folder / 'a.gltf').write_text(document.gltf('b.bin'))
    (folder / 'a.glb').write_bytes(document.glb())
    (folder / 'a.stl').write_bytes(stl(*TRIANGLE))
    (folder / 'a.stl.offset.json').write_text('{"offset": [0, 0, 0], "sha256": ""}')
    for name, beside in {
        'a.obj': ['sub/a b.png', 'sub/c d.mtl', 'windows.mtl'],
        'a.gltf': ['b.bin'],
        'a.glb': [],
        'a.stl': ['a.stl.offset.json'],
    }.items():
        assert len(load_mesh(folder / name).faces) == 1
        assert find_companions(folder / name) == [folder / path for path in beside], name
        monkeypatch.chdir(folder)
        assert [file.absolute() for file in find_companions(Path(name))] == [folder / path for path in beside], name
