"""The wheel, installed into a fresh environment: commands, configs and page templates work from an empty folder."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

ROOT = Path(__file__).parents[1]
SMALL = ['--config.model.cond_size=8', '--config.model.encoder_hidden_size=8', '--config.model.decoder_hidden_size=8']


@pytest.mark.slow
def test_a_wheel_trains_and_reconstructs_from_an_empty_folder(tmp_path):
    def run(*command: object) -> str:
        (tmp_path / 'empty').mkdir(exist_ok=True)
        environment = {'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path / 'empty', env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    source = tmp_path / 'source'
    for folder in ('onet_jax', 'configs', 'launch'):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns('__pycache__'))
    for file in ('setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '-w', tmp_path, source], check=True)
    (wheel,) = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split('/')[0].split('-')[0] for name in names} == {'onet_jax'}
    assert {'onet_jax/py.typed', 'onet_jax/configs/onet_points.py', 'onet_jax/launch/train.py'} <= set(names)
    assert [name for name in names if name.endswith('.html')]

    environment = tmp_path / 'environment'
    run(sys.executable, '-m', 'venv', '--without-pip', environment)
    python = environment / 'bin' / 'python'
    subprocess.run([*pip, '--python', python, 'install', '--no-deps', wheel], check=True)
    # What onet_jax needs is that of this environment. Its own path files are not read: an editable onet_jax is not seen.
    packages = Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').strip())
    (packages / 'needed.pth').write_text(sysconfig.get_paths()['purelib'])

    onet = environment / 'bin' / 'onet'
    assert str(packages) in run(python, '-c', 'import onet_jax.configs as c; print(c.__file__)')
    data = ['--config.data.families=("mug",)', '--config.data.num_shapes_per_family=3', '--config.data.num_points=2100']
    steps = ['--config.train.num_steps=2', '--config.train.batch_size=2', '--config.optim.warmup_steps=1']
    printed = run(onet, 'train', '--config=onet_points:tiny', '--workdir=run', *SMALL, *data, *steps)
    assert 'step 2/2' in printed
    np.save(tmp_path / 'empty' / 'ball.npy', np.random.default_rng(0).normal(size=(500, 3)))
    run(onet, 'reconstruct', '--workdir=run', '--input=ball.npy', '--output=meshes', '--threshold=0.05')
    assert trimesh.load(tmp_path / 'empty' / 'meshes' / 'ball.ply', process=False).is_watertight
