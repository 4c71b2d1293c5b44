"""How long each command says nothing: on a pseudo-terminal, from a cold start, with small settings.

python -m benchmarks.silence [--commands=train,evaluate] [--folder=F]

The commands run one after the other, each on what the ones before have made, with an empty cache of compiled programs. For
each: seconds until its first line, the longest time between two outputs, seconds in all, its exit code and its last line. All
that was said, with the second at which it was, goes to FOLDER/NAME.txt.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import trimesh
from absl import app, flags

COMMANDS = flags.DEFINE_list('commands', None, 'Which of them; all by default.')
FOLDER = flags.DEFINE_string('folder', None, 'For what they write; one that is there keeps what earlier runs made.')
ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / 'tests' / 'golden' / 'checkpoints' / 'pointcloud_legacydecoder_modelonly.pt'
WIDTHS = [f'--config.model.{name}_size=16' for name in ('cond', 'encoder_hidden', 'decoder_hidden')]


def list_commands(folder: Path) -> dict[str, list[str]]:
    """Title -> the arguments of `onet`."""
    data, run, vae = f'--data_dir={folder}/data', f'--workdir={folder}/run', f'--workdir={folder}/vae'
    scan = f'--input={folder}/scan.ply'
    steps = ['--config.train.num_steps=40', '--config.optim.warmup_steps=1']
    return {
        'prepare': ['prepare', data, '--families=chair,mug', '--num_shapes_per_family=30', '--num_points=16384'],
        'check --picture': ['check', data, f'--picture={folder}/picture.png'],
        'train': ['train', '--config=conv_onet:tiny', run, data, *steps],
        'train streamed': [
            'train', '--config=onet_points:tiny', f'--workdir={folder}/streamed', data, *steps, '--config.data.feed=tfds'
        ],
        'train unconditional': ['train', '--config=onet_unconditional:tiny', vae, data, *steps],
        'evaluate --calibrate': ['evaluate', run, '--calibrate'],
        'reconstruct': ['reconstruct', run, scan, f'--output={folder}/meshes'],
        'refine': ['refine', run, scan, f'--mesh={folder}/meshes/scan.ply', f'--output={folder}/fine.ply'],
        'sample': ['sample', vae, f'--output={folder}/samples'],
        'interpolate': ['interpolate', vae, f'--output={folder}/way', '--start=0', '--end=1'],
        'export': ['export', data, f'--output={folder}/official'],
        'prepare --shapenet': ['prepare', f'--shapenet={folder}/official', f'--data_dir={folder}/imported'],
        'convert': [
            'convert', '--config=onet_points', f'--checkpoint={CHECKPOINT}', f'--workdir={folder}/converted', *WIDTHS
        ],
        'reproduce': [
            'reproduce', 'completion', '--tiny', '--rows=ONet', '--num_steps=110', data, f'--output={folder}/pages',
            f'--runs={folder}/rows',
        ],
        'train scene': [
            'train', '--config=nerf:tiny', f'--workdir={folder}/nerf', *steps, '--config.train.eval_every_steps=20',
        ],
        'render': ['render', f'--workdir={folder}/nerf', f'--output={folder}/path', '--num_frames=4'],
        'reconstruct scene': ['reconstruct', f'--workdir={folder}/nerf', f'--output={folder}/scene', '--resolution=64'],
        'demo': ['demo', f'--output={folder}/demo', '--minutes=0.5'],
    }  # fmt: skip


def watch(arguments: list[str], environment: dict[str, str]) -> tuple[list[tuple[float, bytes]], int]:
    """(second, what was written then) of a command on a pseudo-terminal, and its exit code."""
    reader, writer = pty.openpty()
    outputs, start = [], time.monotonic()
    command = [sys.executable, '-m', 'onet_jax.launch', *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=writer, stdout=writer, stderr=writer) as run:
        os.close(writer)
        while True:
            try:
                written = os.read(reader, 65536)
            except OSError:  # how Linux says that the last writer has gone
                break
            outputs.append((time.monotonic() - start, written))
    os.close(reader)
    outputs.append((time.monotonic() - start, b''))
    return outputs, run.returncode


def main(_):
    folder = Path(FOLDER.value or tempfile.mkdtemp(prefix='silence_'))
    folder.mkdir(parents=True, exist_ok=True)
    trimesh.PointCloud(trimesh.creation.capsule(radius=0.3).sample(3000, seed=0)).export(folder / 'scan.ply')
    shutil.rmtree(folder / 'cache', ignore_errors=True)
    environment = {**os.environ, 'ONET_JAX_CACHE': str(folder / 'cache')}
    environment.pop('JAX_COMPILATION_CACHE_DIR', None)
    print('command | first line (s) | longest silence (s) | all (s) | exit code | load\n---|---|---|---|---|---')
    figures = {}
    for title, arguments in list_commands(folder).items():
        if COMMANDS.value and title not in COMMANDS.value:
            continue
        outputs, code = watch(arguments, environment)
        seconds = [0.0, *(second for second, _ in outputs)]
        silence = max(after - before for before, after in pairwise(seconds))
        figures[title] = {'first': seconds[1], 'silence': silence, 'all': seconds[-1], 'code': code}
        load = os.getloadavg()[0]
        print(f'{title} | {seconds[1]:.1f} | {silence:.1f} | {seconds[-1]:.0f} | {code} | {load:.1f}', flush=True)
        text = ''.join(f'{second:7.1f}  {written.decode(errors="replace")}' for second, written in outputs)
        (folder / f'{title.replace(" ", "_")}.txt').write_text(text)
    print(json.dumps({'cores': os.cpu_count(), **figures}))


if __name__ == '__main__':
    app.run(main)
