"""The commands and the Python of the documents, executed page after page in one folder; or why not."""

import re
import sys
from contextlib import chdir
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trimesh
from documents import DOCUMENTS, FENCE, blocks, commands, config_files, read
from entry_points import launch
from model_configs import small_config

from onet_jax import models

# Executed, in this order: from a scan to a mesh, from meshes to a network, to an own loss, and what is done with the results.
EXECUTED = (
    'docs/start/scan.md',
    'docs/start/meshes.md',
    'docs/how_to/own_loss.md',
    'docs/how_to/evaluate.md',
    'docs/how_to/fields.md',
    'docs/how_to/share.md',
)
# Document -> start of a command, '' for all of its others -> why it is not executed here.
INSTALLS = 'installs the package; .ci/run does'
DEMO = 'trains for minutes; tests/launch/commands_test.py runs it with a small network'
REPRODUCES = 'trains for minutes to hours; tests/reproduce_test.py makes tables of small networks'
FOLDER = 'many files; tests/inference/reconstruct_test.py has folders'
PRINTS = 'prints alone; tests/launch/commands_test.py has it'
NEEDS_DOWNLOAD = 'needs a download'
FULL_SIZE = 'trains at full size; docs/start/meshes.md is executed with a small network'
PAPERS = [document for document in DOCUMENTS if document.startswith('docs/papers/') and blocks(read(document), 'bash')]
NOT_EXECUTED = {
    'README.md': {'demo': DEMO, '': 'a part of docs/start/scan.md and docs/start/meshes.md, which are executed'},
    'docs/start/README.md': {'doctor': 'slow test of tests/launch/commands_test.py', 'demo': DEMO},
    'docs/start/scan.md': {'reconstruct scans': FOLDER},
    'docs/start/meshes.md': {'train --config=objects': 'compiles for minutes; tests/training has init_from'},
    'docs/how_to/evaluate.md': {'reproduce': REPRODUCES},
    'docs/how_to/train.md': {
        '': 'flags of onet train; tests/launch/commands_test.py and tests/training have each of them'
    },
    'docs/start/photos.md': {
        '': 'renders and trains for minutes; tests/models/baselines_test.py goes from pictures to meshes'
    },
    'docs/start/shapenet.md': {
        '': 'needs ShapeNet; tests/prepare and tests/reproduce_test.py have small ones in its layout'
    },
    'docs/start/checkpoint.md': {'': f'{NEEDS_DOWNLOAD}; tests/launch/commands_test.py converts a small checkpoint'},
    'docs/start/posed_pictures.md': {'': 'trains for minutes; tests/models/nerf_test.py fits a small scene'},
    'docs/start/sequence.md': {'': 'trains for minutes; tests/models/sequences_test.py has small sequences'},
    'docs/how_to/sample.md': {'': 'trains for minutes; tests/launch/commands_test.py samples and interpolates'},
    'docs/how_to/colour.md': {'': 'renders and trains for minutes; tests/inference/colorize_test.py colours a mesh'},
    **{page: {'': 'trains for minutes or longer; tests/models has steps of each paper'} for page in PAPERS},
    'docs/exports.md': {'': 'tests/convert/exported_test.py exports small networks, and calls the files'},
    'docs/results/scene.md': {'': 'needs a scene of others; tests/models/nerf_test.py fits a small one'},
    'docs/results/texture.md': {'': 'trains for minutes; tests/inference/colorize_test.py colours a mesh'},
    'docs/viewer.md': {'': 'serves until it is stopped; tests/launch/view_test.py opens its page'},
    'docs/gpu.md': {'': 'needs a GPU'},
    'docs/tpu_pod.md': {'': 'needs a TPU slice or a cluster; tests/distributed_test.py starts two processes'},
    'onet_jax/data/README.md': {'': 'needs collections of others; tests/prepare has small ones of each kind'},
}
STEPS = ('num_steps=2', 'batch_size=2', 'eval_every_steps=2', 'checkpoint_every_steps=2')
NARROW = ('unet_depth=1', 'unet_size=4', 'plane_resolution=16', 'decoder_hidden_size=8')  # feature planes
SMALL = {
    'prepare': ['--num_points=5000'],
    'train': [
        *(f'--config.train.{step}' for step in STEPS),
        *(f'--config.model.{size}' for size in NARROW),
        '--config.optim.warmup_steps=1',
        '--config.mesh.resolution=16',
        '--config.mesh.upsampling_steps=0',
    ],
    'refine': ['--steps=2'],
}
EMBEDDED = ['--config.data.families=mug', '--config.data.num_shapes_per_family=3', '--config.data.num_points=5000']


def reason_of(document: str, command: str) -> str | None:
    """Why a command, such as 'train --config=psgn', is not executed; None where it is."""
    reasons = NOT_EXECUTED.get(document, {})
    return next((reason for start, reason in reasons.items() if command.startswith(start)), None)


def test_every_command_is_executed_or_it_is_said_why_not():
    used = set()
    for document in DOCUMENTS:
        for block in blocks(read(document), 'bash', 'console'):
            for words in commands(block):
                reason = reason_of(document, ' '.join(words))
                assert reason or document in EXECUTED, f'{document}: onet {" ".join(words)}'
                used.add((document, reason))
    assert used >= {(document, reason) for document, reasons in NOT_EXECUTED.items() for reason in reasons.values()}


def write_meshes(folder: Path):
    """Two categories of three meshes that differ."""
    for k in range(3):
        box = trimesh.creation.box((1, 1 + k, 0.5))
        for category, mesh in (('boxes', box), ('balls', trimesh.creation.icosphere(2).apply_scale((1, 1, 1 + k)))):
            path = folder / category / f'{k}.ply'
            path.parent.mkdir(parents=True, exist_ok=True)
            mesh.export(path)


@pytest.mark.slow
def test_the_pages_are_executed(tmp_path, monkeypatch):
    monkeypatch.setattr('onet_jax.configs.onet_points', lambda variant: small_config())
    scan = blocks(read('docs/start/scan.md'), 'python')[0]
    write_meshes(tmp_path / 'my_meshes')
    cloud = np.random.default_rng(0).normal(size=(500, 3))
    np.save(tmp_path / 'cloud.npy', cloud / np.linalg.norm(cloud, axis=1, keepdims=True) / 2)
    with chdir(tmp_path):
        exec(compile(scan, 'scan.md', 'exec'), {})
    for document in EXECUTED:
        text, names = read(document), {}
        files = config_files(text)
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        for language, block in FENCE.findall(text):
            if language == 'python' and 'def build(' in block:
                paper = ModuleType('onet_jax.models.my_loss')
                exec(compile(block, document, 'exec'), paper.__dict__)
                monkeypatch.setitem(sys.modules, paper.__name__, paper)
                monkeypatch.setattr(models, 'PAPERS', [*models.PAPERS, 'my_loss'])
            elif language == 'python' and block not in files.values():
                few = re.sub(r'(for \w+ in range\(|\bsteps=)\d+', r'\g<1>3', block)
                with chdir(tmp_path):
                    exec(compile(few, document, 'exec'), names)
            for verb, *words in commands(block) if language == 'bash' else ():
                if not reason_of(document, ' '.join([verb, *words])):
                    run(document, verb, words, tmp_path)
    for mesh in ('meshes/scan.ply', 'finished/scan.glb', 'meshes_mine/scan.ply', 'pulled_meshes/scan.ply', 'fine.ply'):
        assert len(trimesh.load(tmp_path / mesh, force='mesh').faces), mesh


def run(document: str, verb: str, words: list[str], folder: Path):
    """Execute a command, with few steps and points."""
    more = [*SMALL.get(verb, ())]
    if verb == 'train' and not any(word.startswith('--data_dir=') for word in words):
        more += EMBEDDED
    if verb == 'reconstruct' and any(word.startswith(('--workdir=runs', '--workdir=my_')) for word in words):
        more += ['--threshold=0.05']  # where networks that have learned nothing see something
    done = launch(verb, *words, *more, folder=folder)
    assert done.returncode == 0, f'{document}: onet {verb} {" ".join(words)}: {done.stdout}{done.stderr}'
