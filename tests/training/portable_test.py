"""Weights that travel: of any workdir, read back as they were, and refused when they are damaged."""

import json
import sys
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from model_configs import small_config
from untrained import untrained

from onet_jax import run
from onet_jax.configs import load_config
from onet_jax.errors import InputError
from onet_jax.training import portable
from onet_jax.training.portable import read_weights, write_weights


@pytest.fixture
def folder(tmp_path):
    """Weights of the small network as they travel, and its variables."""
    _, variables = untrained(small_config())
    write_weights(tmp_path / 'weights', small_config(), 7, variables, {'iou': 0.5}, None)
    return tmp_path / 'weights', variables


def test_weights_are_read_as_they_were_and_taken_for_a_workdir(folder):
    path, variables = folder
    step, found, metrics = read_weights(path)
    assert (step, metrics) == (7, {'iou': 0.5})
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    loaded = run.load_run(path)
    assert (loaded.step, loaded.config.to_dict(), loaded.workdir) == (7, small_config().to_dict(), path)
    run.export_weights(run.at_threshold(loaded, 0.3, 'a test'), path.with_name('again'))
    again = run.load_run(path.with_name('again'))
    assert again.config.eval.threshold == 0.3
    assert run.describe_training(again) == 'Validation IoU 0.500 after 7 steps.'
    jax.tree.map(np.testing.assert_array_equal, again.params, variables)
    with pytest.raises(InputError, match='again: expected a new or empty folder'):
        run.export_weights(loaded, path.with_name('again'))
    assert run.evaluation_folder(loaded) == Path('evaluation_of_weights')
    assert portable.name_of('models--us--er/snapshots/0123456789abcdef') == 'us--er-0123456'
    with pytest.raises(InputError, match='weights: expected a workdir to calibrate'):
        run.calibrate_run(loaded, path)


FAMILIES = (
    'onet_image', 'onet_voxels', 'onet_unconditional', 'onet_embedding', 'conv_onet', 'conv_onet_crops', 'occupancy_flow',
    'onet4d', 'psgn4d', 'texture_field', 'nerf', 'psgn', 'atlasnet', 'pixel2mesh', 'dmc', 'r2n2',
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_weights_of_every_family_travel(name, tmp_path):
    config = load_config(f'{name}:tiny')
    _, variables = untrained(config)
    write_weights(tmp_path / 'weights', config, 7, variables, {}, None)
    loaded = run.load_run(tmp_path / 'weights')
    assert loaded.config.to_dict() == config.to_dict()
    jax.tree.map(np.testing.assert_array_equal, loaded.params, variables)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_changed_file_is_refused(folder, name):
    path, _ = folder
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(InputError, match=f'{name}: expected the content that was saved'):
        read_weights(path)


def test_a_file_of_others_is_refused(folder):
    path, _ = folder
    (path / 'model.safetensors').write_bytes(b'\x02\0\0\0\0\0\0\0{}')
    digests = json.loads((path / 'digest.json').read_text())
    (path / 'digest.json').write_text(json.dumps({'config.json': digests['config.json']}))
    with pytest.raises(InputError, match='expected weights of onet_jax, with their step'):
        read_weights(path)


def test_names_are_found_in_the_package_and_on_the_hub(folder, monkeypatch, tmp_path):
    path, _ = folder
    monkeypatch.setattr(portable, 'PACKAGED', path.parent)
    monkeypatch.chdir(tmp_path)
    assert portable.names_of_weights() == ['weights']
    assert portable.find_workdir('weights') == tmp_path / 'weights' or portable.find_workdir('weights').samefile(path)
    assert portable.find_workdir('runs/weights') == Path('runs/weights')
    hub = ModuleType('huggingface_hub')
    hub.snapshot_download = lambda name, allow_patterns: str(path) if name == 'us/er' else None
    monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
    assert run.load_run('hf://us/er').step == 7
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match=r"pip install -e '.\[hub\]'"):
        portable.find_workdir('hf://us/er')
