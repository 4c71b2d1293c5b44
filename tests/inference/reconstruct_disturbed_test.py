"""Reconstruction when files change, other runs come, or the process is killed."""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import trimesh
from geometry.mesh_dialects import glb
from model_configs import small_config
from predictions import hull_method, one_by_one, predicting

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import save_mesh
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.prepare.runners import SPAWN

pytestmark = pytest.mark.usefixtures('small_pictures')


def test_an_input_that_changes_meanwhile_is_not_done(cloud, tmp_path):
    np.save(tmp_path / 'a.npy', cloud)

    def replace(inputs):
        np.save(tmp_path / 'a.npy', cloud[:20])
        return hull_method().predict(None, inputs, None)

    arguments = {}, small_config(), tmp_path / 'a.npy', tmp_path / 'out', 'ply'
    with pytest.raises(InputError, match=r'a.npy: expected a file that stays, found that it has changed meanwhile'):
        reconstruct_files(predicting(replace), *arguments)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['manifest.json']
    seen = []
    reconstruct_files(hull_method(seen), *arguments)
    assert len(seen) == 1


@pytest.mark.slow
def test_an_input_changes_with_the_files_that_hold_its_points(tmp_path):
    scans, seen, box = tmp_path / 'in', [], trimesh.creation.box()
    scans.mkdir()
    document = glb(box.vertices, box.faces)
    (scans / 'a.gltf').write_text(document.gltf('a.bin'))
    (scans / 'a.bin').write_bytes(document.data)
    box.apply_translation((1e6, 0, 0))
    save_mesh(box, scans / 'b.stl')
    arguments = hull_method(seen), {}, small_config(), scans, tmp_path / 'out', 'off'
    for change, count in (('a.bin', 2), ('b.stl.offset.json', 1), ('b.stl', 1), (None, 1)):
        seen.clear()
        reconstruct_files(*arguments)
        assert sum(map(len, seen)) == count
        if change:
            os.utime(scans / change)
    (tmp_path / 'out/a.off').unlink()
    (tmp_path / 'out/a.off').symlink_to(scans / 'a.bin')
    with pytest.raises(InputError, match=r'a.off: expected a new file, found the input .*a.bin'):
        reconstruct_files(*arguments)


def test_a_folder_belongs_to_one_run_at_a_time(cloud, tmp_path):
    """Else two of other weights would mix their meshes, and the manifest of one vouch for them."""
    np.save(tmp_path / 'a.npy', cloud)
    arguments = small_config(), tmp_path / 'a.npy', tmp_path / 'out', 'ply'

    def meanwhile(inputs):
        with pytest.raises(
            InputError, match=rf'out/.lock: expected a folder that no other .* found process {os.getpid()}'
        ):
            reconstruct_files(hull_method(), {'weight': np.ones(1)}, *arguments)
        return hull_method().predict(None, inputs, None)

    reconstruct_files(predicting(meanwhile), {}, *arguments)
    reconstruct_files(hull_method(), {'weight': np.ones(1)}, *arguments)


def reconstruct_and_die(folder):
    """Of the tests' module, so that another process can import it: killed while it writes the third mesh."""
    seen, devices = [], jax.devices()
    jax.local_devices = lambda: devices[:1]  # the second mesh is written before the third one is made

    def predict(inputs):
        seen.append(inputs)
        if len(seen) == 3:
            Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return hull_method().predict(None, inputs, None)

    reconstruct_files(predicting(predict), {}, one_by_one(), folder, folder / 'out', 'off')


@pytest.mark.slow
def test_a_run_that_is_killed_loses_nothing_and_leaves_nothing(cloud, tmp_path):
    for name in 'abcde':
        np.save(tmp_path / f'{name}.npy', cloud)
    run = SPAWN.Process(target=reconstruct_and_die, args=(tmp_path,))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / 'out').glob('*') if path.suffix in ('.unfinished', '.log')]
    assert len(left) == 2
    (tmp_path / 'out/.0123456789abcdef.mine').touch()
    seen = []
    reconstruct_files(hull_method(seen), {}, one_by_one(), tmp_path, tmp_path / 'out', 'off')
    assert len(seen) == 3
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {*(f'{name}.off' for name in 'abcde'), 'manifest.json', 'index.html', '.0123456789abcdef.mine'}
