"""The entry points as a user runs them, above all with wrong input: one clear message, exit code 1, no traceback.

All but those of the last part run in this process (see `entry_points.py`).
"""

import json
import os
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from entry_points import ROOT, launch
from model_configs import small_config
from parity.golden import find_golden
from untrained import untrained_workdir

from onet_jax import configs, demo
from onet_jax.data import records
from onet_jax.training.loop import train

TINY = '--config=configs/onet_points.py:tiny'
# Widths and numbers with which the networks of this file run in milliseconds.
SMALL = [
    '--config.model.cond_size=8',
    '--config.model.encoder_hidden_size=8',
    '--config.model.decoder_hidden_size=8',
    '--config.mesh.resolution=8',
    '--config.mesh.upsampling_steps=0',
]


def assert_fails(done, *messages):
    assert done.returncode == 1, done.stderr
    assert 'Traceback' not in done.stderr
    for message in messages:
        assert message in done.stderr
    assert done.stderr.count('error:') == 1


@pytest.fixture
def broken_dataset(dataset, tmp_path):
    copy = tmp_path / 'broken'
    shutil.copytree(dataset, copy, ignore=shutil.ignore_patterns('tfds'))
    path = records.shape_path(copy, *records.read_index(copy).splits['train'][0])
    path.write_bytes(path.read_bytes()[:3000])
    return copy, path


def test_training_reports_bad_data(broken_dataset, tmp_path):
    missing = launch('train', TINY, f'--workdir={tmp_path}/w', f'--data_dir={tmp_path}/nowhere')
    assert_fails(missing, f'{tmp_path}/nowhere: expected the folder of a dataset', 'onet prepare')
    copy, path = broken_dataset
    corrupt = launch('train', TINY, f'--workdir={tmp_path}/w', f'--data_dir={copy}')
    assert_fails(corrupt, f'{path}: expected an archive as np.savez writes it')


@pytest.mark.parametrize(
    'flags, messages',
    [
        (['--config=configs/onet_pionts.py'], ['configs/onet_pionts.py', 'onet_points']),
        (['--config=configs/onet_points.py:huge'], ["expected a variant of ('tiny', ", "found 'huge'"]),
        ([TINY, '--config.optim.learning_rat=1'], ['learning_rat', 'learning_rate']),
        ([TINY, '--config.optim.learning_rate=fast'], ['learning_rate', 'fast']),
        ([TINY, '--config.train.num_steps=1.5'], ['num_steps', '1.5']),
        ([TINY, '--config.eval.sample=perhaps'], ['sample', 'perhaps']),
        ([TINY, '--config.data.inputs=(3,)'], ['inputs', '3']),
        ([TINY, '--config.model=onet'], ['model', 'onet']),
        ([TINY, '--config.trian.num_steps=1'], ['trian']),
        ([TINY, '--max_bad_examples=many'], ['max_bad_examples', 'many']),
        ([TINY, '--accept_changes', 'False'], ["found 'False' beside them", '--noname']),
        ([TINY, '--wrokdir=w'], ['wrokdir', 'workdir']),
        ([], ['config']),
    ],
)
def test_training_reports_bad_flags(tmp_path, flags, messages):
    done = launch('train', f'--workdir={tmp_path}/w', *flags)
    assert_fails(done, *messages)
    assert done.stderr.count('\n') == 1, 'one line'
    assert not (tmp_path / 'w').exists()


def test_a_config_is_printed_without_a_workdir_and_trained_with_one():
    done = launch('train', TINY, '--config.train.num_steps=77', '--print_config')
    assert (done.returncode, done.stderr) == (0, '')
    assert "\n    inputs: ('cloud',)" in done.stdout
    assert 'num_steps: 77' in done.stdout
    assert 'noise_std: 0.005  # of the input points' in done.stdout
    assert_fails(launch('train', TINY), '--workdir: expected the folder of the run, found none')


@pytest.mark.slow
def test_training_refuses_the_workdir_of_another_config(workdir, dataset):
    done = launch('train', TINY, f'--workdir={workdir}', f'--data_dir={dataset}')
    assert_fails(
        done, 'this workdir belongs to another config', 'config.model.cond_size: 12 in the workdir, ', 'asked for'
    )


def test_what_is_no_error_of_the_input_keeps_its_traceback(tmp_path, dataset, monkeypatch):
    """A ValueError of JAX says nothing to a user: it is a defect."""
    monkeypatch.setattr('onet_jax.training.loop.train', lambda *_, **__: jnp.broadcast_to(jnp.zeros(3), (2, 4)))
    with pytest.raises(ValueError, match='broadcast'):
        launch('train', TINY, f'--workdir={tmp_path}/w', f'--data_dir={dataset}')
    with pytest.raises(ValueError, match='--workdir: expected the folder of the run'):
        launch('train', TINY, '--traceback')


@pytest.mark.parametrize(
    'points, message',
    [
        (np.array([[0, 0, 0], [1, np.nan, 0], [np.inf, 1, 1]]), 'expected at least 2 distinct points, found 1 in 1'),
        (np.ones((5, 3)), 'expected at least 2 distinct points, found 1 in 5'),
        (np.zeros((0, 3)), 'expected at least 2 distinct points, found 0 in 0'),
        (np.ones((5, 2)), 'expected points [N, 3], found an array of shape [5, 2]'),
    ],
)
def test_reconstruction_reports_bad_clouds(workdir, tmp_path, points, message):
    np.save(tmp_path / 'cloud.npy', points)
    done = launch('reconstruct', f'--workdir={workdir}', f'--input={tmp_path}/cloud.npy', f'--output={tmp_path}/out')
    assert_fails(done, f'{tmp_path}/cloud.npy', message)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['manifest.json']


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--cell=2'], '--cell: expected a network of scenes, found one of cloud'),
        (['--threshold=1.5'], 'threshold: expected a probability between 0 and 1, found 1.5'),
        (['--resolution=100'], 'resolution'),
        (['--resolution=512', '--max_memory_gb=0.1'], 'resolution: expected a grid of at most 0.1 GB, found 3.0 GB'),
        (['--format=usd'], '--format=usd: value should be one of <ply|obj'),
        (['--output='], '--output: expected a path or a word, found nothing'),
        (['b.xyz'], 'expected one file or folder to reconstruct, found '),
    ],
)
def test_reconstruction_reports_bad_flags(workdir, tmp_path, flags, message):
    np.save(tmp_path / 'cloud.npy', np.eye(3))
    done = launch('reconstruct', f'--workdir={workdir}', f'--input={tmp_path}', f'--output={tmp_path}/out', *flags)
    assert_fails(done, message)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'content, message',
    [
        ('x = 1\ny = (\n', 'mine.py, line 2: expected Python, found'),
        ('x = 1\n', 'mine.py: expected a function get_config(variant), found none'),
        ('\nimport nowhere_at_all\n', 'mine.py, line 2: expected a config, found ModuleNotFoundError: No module named'),
        ('def get_config(variant):\n    return 1 / 0\n', 'mine.py, line 2: expected a config, found ZeroDivisionError'),
        ('def get_config(variant):\n    return {}\n', 'mine.py: expected a ConfigDict from get_config, found dict'),
    ],
)
def test_what_is_wrong_with_a_config_file_is_said_with_its_line(tmp_path, content, message):
    (tmp_path / 'mine.py').write_text(content)
    done = launch('train', f'--config={tmp_path}/mine.py', f'--workdir={tmp_path}/w')
    assert_fails(done, f'{tmp_path}/{message}')
    assert done.stderr.count('\n') == 1


def test_a_config_file_may_begin_with_a_byte_order_mark_and_a_path_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    text = 'from onet_jax.configs import onet_points\n\n\ndef get_config(variant):\n    return onet_points(variant)\n'
    (tmp_path / 'mine.py').write_text(text, encoding='utf-8-sig')
    done = launch('train', '--config=~/mine.py:tiny', '--print_config')
    assert done.returncode == 0, done.stderr
    assert 'learning_rate: ' in done.stdout
    assert_fails(launch('check', '--data_dir=~/nowhere'), f'error: {tmp_path}/nowhere')


def test_a_file_in_place_of_a_folder_or_a_picture_is_named(workdir, dataset, tmp_path):
    (tmp_path / 'file').write_text('mine')
    np.save(tmp_path / 'cloud.npy', np.eye(3))
    paths = [f'--workdir={workdir}', f'--input={tmp_path}/cloud.npy']
    for output in ('file', 'file/below'):
        done = launch('reconstruct', *paths, f'--output={tmp_path}/{output}')
        assert_fails(done, f'{tmp_path}/file', 'expected a folder, found a file')
    index = (dataset / 'dataset.json').read_bytes()
    done = launch('check', f'--data_dir={dataset}', f'--picture={dataset}/dataset.json')
    assert_fails(done, 'dataset.json: expected the name of a picture, NAME.png')
    assert (dataset / 'dataset.json').read_bytes() == index
    (tmp_path / 'mine.png').write_text('mine')
    done = launch('check', f'--data_dir={dataset}', f'--picture={tmp_path}/mine.png')
    assert_fails(done, 'mine.png: expected a new file or a PNG to replace')


def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    done = launch('evaluate', f'--workdir={tmp_path}/nowhere')
    assert_fails(done, f'{tmp_path}/nowhere/config.json: expected a workdir')


def test_evaluate_calibrates_and_scores_the_inputs(workdir, tmp_path):
    own = shutil.copytree(workdir, tmp_path / 'own')
    done = launch('evaluate', f'--workdir={own}', '--calibrate', '--split=val')
    assert done.returncode == 0, done.stderr
    threshold = json.loads((own / 'calibration.json').read_text())['threshold']
    protocol = json.loads((own / 'evaluation/val/protocol.json').read_text())
    assert (protocol['threshold'], protocol['threshold_from']) == (threshold, 'calibration on val')
    assert f'{own}/calibration.json: threshold {threshold} with IoU' in done.stdout
    last = f'{own}/evaluation/val: written; next: onet reconstruct --input=FILE --workdir={own} --output=FOLDER'
    assert done.stdout.splitlines()[-1] == last

    done = launch('evaluate', f'--workdir={own}', '--inputs')
    assert done.returncode == 0, done.stderr
    folder = own / 'evaluation/test_inputs'
    assert sorted(p.name for p in folder.iterdir()) == ['protocol.json', 'rows.csv', 'table.csv', 'table.md']
    assert 'threshold' not in json.loads((folder / 'protocol.json').read_text())
    mean = next(line for line in (folder / 'table.md').read_text().splitlines() if line.startswith('| mean'))
    assert [cell.strip() for cell in mean.split('|')][4] == '-'
    both = launch('evaluate', f'--workdir={own}', '--inputs', '--calibrate')
    assert_fails(both, '--inputs: expected neither --calibrate nor --threshold')


def test_convert_reconstruct_and_sample(tmp_path):
    """An official checkpoint to a mesh, in two commands; a file that is none is refused."""
    checkpoint = find_golden('checkpoints/pointcloud_legacydecoder_modelonly.pt')
    sizes = [flag.replace('=8', '=16') if 'size' in flag else flag for flag in SMALL]
    common = ['--config=configs/onet_points.py', *sizes]
    done = launch('convert', f'--checkpoint={checkpoint}', *common, f'--workdir={tmp_path}/w')
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / 'cloud.npy', np.random.default_rng(0).normal(size=(400, 3)))
    reconstruct = launch(
        'reconstruct', f'--workdir={tmp_path}/w', f'--input={tmp_path}/cloud.npy', f'--output={tmp_path}/o'
    )
    assert reconstruct.returncode == 0, reconstruct.stderr
    assert (tmp_path / 'o' / 'cloud.ply').exists()
    assert_fails(launch('evaluate', f'--workdir={tmp_path}/w'), '--data_dir: expected a dataset')
    assert_fails(
        launch('sample', f'--workdir={tmp_path}/w', f'--output={tmp_path}/o'), 'expected a model without input'
    )
    (tmp_path / 'no.pt').write_bytes(b'not a checkpoint')
    no = launch('convert', f'--checkpoint={tmp_path}/no.pt', *common, f'--workdir={tmp_path}/x')
    assert_fails(no, f'{tmp_path}/no.pt: expected')
    assert not (tmp_path / 'x').exists()


@pytest.mark.slow
def test_sample_and_interpolate(dataset, tmp_path):
    """The way from a sample to a shape of the run's dataset begins at the mesh of that sample."""
    config = configs.onet_unconditional('tiny')
    with config.unlocked():
        config.model.update(latent_size=3, decoder_hidden_size=8)
        config.data.update(num_points_per_step=64, num_near_points=32)
        config.mesh.update(resolution=8, upsampling_steps=0)
        config.eval.threshold = 0.5
    untrained_workdir(config, tmp_path / 'run', dataset, seed=48)
    common = [f'--workdir={tmp_path}/run', '--seed=3', '--format=off']
    ends = ['--start=1', '--end=mug/000000', '--num_steps=3']
    for done in (
        launch('sample', *common, '--num_samples=2', f'--output={tmp_path}/samples'),
        launch('interpolate', *common, *ends, f'--output={tmp_path}/way'),
    ):
        assert done.returncode == 0, done.stderr
        assert '; next: onet ' in done.stdout.splitlines()[-1]
    names = sorted(path.name for path in (tmp_path / 'way').iterdir())
    assert names == ['000.off', '001.off', '002.off', 'strip.gif', 'strip.png']
    assert (tmp_path / 'way' / '000.off').read_bytes() == (tmp_path / 'samples' / 'sample_001.off').read_bytes()
    first, last = ((tmp_path / 'way' / f'{name}.off').read_bytes() for name in ('000', '002'))
    assert first != last
    assert (tmp_path / 'samples' / 'contact_sheet.png').exists()


def test_flags_that_a_kind_of_dataset_does_not_use_are_refused(tmp_path):
    done = launch('prepare', f'--data_dir={tmp_path}/d', f'--shapenet={tmp_path}', '--num_points=5')
    assert_fails(done, '--num_points: expected no such flag for a dataset of shapenet')
    assert_fails(
        launch('prepare', f'--data_dir={tmp_path}/d', '--up=z'), '--up: expected no such flag for a dataset of solids'
    )


@pytest.mark.slow
def test_the_demo_shows_ready_made_shapes_then_those_of_a_training(dataset, tmp_path, monkeypatch):
    """With hulls in place of the weights of the package, and a small network."""
    small = small_config()
    for name, value in {
        'onet_jax.ready_made.reconstruct': lambda cloud, weights: trimesh.PointCloud(cloud).convex_hull,
        'onet_jax.demo.OBJECTS': (('mug', 3),),
        'onet_jax.demo.train': lambda config, workdir: train(config, workdir, dataset),
        'onet_jax.demo.embedded_dataset': lambda data: dataset,
        'onet_jax.configs.conv_onet': lambda arg: small.copy_and_resolve_references(),
    }.items():
        monkeypatch.setattr(name, value)
    done = launch('demo', f'--output={tmp_path}', '--num_shown=1', '--num_steps=7')
    assert done.returncode == 0, done.stderr
    assert 'training 7 steps; --num_steps=7 repeats this' in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f'onet reconstruct scan.ply --output={tmp_path}/mine')
    found = json.loads((tmp_path / 'metrics.json').read_text())
    assert (found['num_shapes'], found['num_steps'], set(found['ready_made'])) == (3, 7, {'mug 3', 'rooms_06 49'})
    assert 0.2 < found['ready_made']['mug 3'] < 1, 'the hull of its points'
    assert (tmp_path / 'index.html').read_text().count('data-shape=') == 6
    assert 'validation IoU' in (tmp_path / 'trained' / 'index.html').read_text()
    again = launch('demo', f'--output={tmp_path}', '--num_shown=1')
    assert 'training 7 steps' in again.stdout, 'as an earlier run has begun'
    monkeypatch.setattr('onet_jax.demo.NUM_MEASURED', 4)
    assert demo.count_steps(small, 0.001) == 10
    assert demo.count_steps(small, 1.0) > 10


# --- In processes of their own.


def command(name, *args, **variables):
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | variables
    command = [sys.executable, '-W', 'error::DeprecationWarning:onet_jax', '-m', f'launch.{name}', *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_an_error_is_one_line_on_a_command_line():
    assert_fails(command('train', TINY, '--config.optim.learning_rate=fast'), 'learning_rate', 'fast')


@pytest.mark.slow
def test_prepare_train_evaluate_reconstruct_and_refine(tmp_path):
    """The whole road in five commands, without a warning."""
    data, run = f'{tmp_path}/data', f'{tmp_path}/run'
    steps = ['--config.train.num_steps=3', '--config.train.batch_size=2', '--config.optim.warmup_steps=1']
    commands = [
        ('prepare', f'--data_dir={data}', '--families=mug', '--num_shapes_per_family=3', '--num_points=2100'),
        ('train', TINY, f'--workdir={run}', f'--data_dir={data}', *SMALL[:3], *steps, '--config.eval.threshold=0.05'),
        ('evaluate', f'--workdir={run}', '--threshold=0.05'),
        ('reconstruct', f'--workdir={run}', f'--input={tmp_path}/scan.ply', f'--output={tmp_path}/out', '--format=obj'),
        (
            'refine',
            f'--workdir={run}',
            f'--mesh={tmp_path}/out/scan.obj',
            f'--input={tmp_path}/scan.ply',
            f'--output={tmp_path}/fine.stl',
            '--steps=2',
            '--simplify_faces=900',
        ),
    ]
    cloud = np.random.default_rng(0).normal(size=(500, 3)) * 40 + 7
    trimesh.PointCloud(cloud).export(tmp_path / 'scan.ply')
    outputs = {}
    for name, *args in commands:
        done = command(name, *args)
        assert done.returncode == 0, done.stderr
        assert 'warning' not in done.stderr.lower(), done.stderr
        assert name == 'reconstruct' or '; next: onet ' in done.stdout.splitlines()[-1]
        outputs[name] = done.stdout + done.stderr
    assert 'train 1, val 1, test 1 shapes; 0 rejected' in outputs['prepare']
    assert 'devices: 1 x cpu' in outputs['train']
    assert 'step 3/3' in outputs['train']
    assert 'floor (ground truth against itself)' in outputs['evaluate']
    assert (tmp_path / 'run' / 'evaluation' / 'test' / 'table.md').read_text() in outputs['evaluate']
    assert '* threshold: 0.05\n* threshold from: --threshold\n' in outputs['evaluate']
    mesh = trimesh.load(tmp_path / 'out' / 'scan.obj', force='mesh')
    assert np.ptp(mesh.bounds, axis=0).max() > 0.2 * np.ptp(cloud, axis=0).max(), "in the user's frame"
    fine = trimesh.load(tmp_path / 'fine.stl')
    np.testing.assert_allclose(fine.bounds, mesh.bounds, atol=0.05 * np.ptp(cloud, axis=0).max())
    assert len(fine.faces) < len(mesh.faces) / 2
    assert 'after 2 steps' in outputs['refine']


@pytest.mark.slow
def test_the_doctor_describes_this_machine():
    done = command('doctor')
    assert done.returncode == 0, done.stdout
    for line in ('packages: numpy ', 'devices: 1 x cpu (cpu)', 'precision: float32', 'memory: ', 'accelerator: '):
        assert f'\n{line}' in done.stdout
    absent = command('doctor', JAX_PLATFORMS='cuda')
    assert absent.returncode == 1
    assert 'broken: JAX does not start' in absent.stdout


@pytest.mark.parametrize(
    'arguments, code, expected',
    [
        (['--help'], 0, '    reconstruct  Meshes from your own files\n'),
        (['--version'], 0, '0.'),
        (
            ['trian'],
            1,
            "error: expected a verb, one of check, colorize, compile, convert, .*found 'trian'; did you mean 'train'?",
        ),
        (['train', '--help'], 0, '--workdir: Folder of checkpoints and logs.'),
        (['train', '--helpfull', '--config=psgn'], 0, '    learning_rate: '),
        (['train', '--config=list'], 0, 'onet_voxels\n    Voxel super-resolution'),
        (['train', '--config', 'onet_points:tiny,nocbn', '--print_config'], 0, "decoder: 'batchnorm'"),
        (
            ['train', '--config=onet_points', '--config.data.families=chair, mug', '--print_config'],
            0,
            "('chair', 'mug')",
        ),
        (['train', '--config=onet_pionts'], 1, "found 'onet_pionts'; did you mean 'onet_points'?"),
        (['train', '--config=onet_points:tini'], 1, "found 'tini'; did you mean 'tiny'?"),
    ],
)
def test_the_program_knows_its_verbs_and_the_configs_from_any_folder(tmp_path, arguments, code, expected):
    command = [sys.executable, '-m', 'onet_jax.launch', *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert expected in done.stdout or re.search(expected, done.stderr)
