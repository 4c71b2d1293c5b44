"""The architecture: an import may only point down, and a new paper changes nothing but its own files."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    'conventions': 0, 'errors': 0, 'files': 0, 'json_files': 0, 'arrays': 0, 'progress': 0, 'geometry': 1, 'parallel': 1,
    'networks': 2, 'data': 2, 'prepare': 2, 'losses': 2, 'metrics': 2, 'scores': 2,
    'models': 3, 'convert': 4, 'viz': 4, 'inference': 5, 'evaluation': 5, 'training': 6, 'run': 7,
    'ready_made': 8, 'reproduce': 8, 'demo': 9,
}  # fmt: skip
# What prepares a dataset writes what `data` reads; a score is made of metrics; damaged arrays, what is not JSON, and files that
# must not be replaced, are wrong input.
NEIGHBOURS = {('prepare', 'data'), ('scores', 'metrics')} | {
    (name, 'errors') for name in ('arrays', 'files', 'json_files')
}
# What a room never sees, although it is below.
UNSEEN = {'data': {'networks', 'models'}, 'prepare': {'networks', 'models'}, 'viz': {'networks', 'models'}}
# Packages that live in some files only; nobody needs torch.
HOMES = {
    'flax': ('networks/', 'models/'),
    'tensorflow': ('data/tfds_builder.py', 'data/streamed.py'),
    'tensorflow_datasets': ('data/tfds_builder.py', 'data/streamed.py'),
    'torch': (),
}
ALL = sorted((ROOT / 'onet_jax').rglob('*.py'))
FILES = [p for p in ALL if p.parent != ROOT / 'onet_jax' or p.stem in FLOORS]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / 'onet_jax').as_posix()


@cache
def imported_modules(path: Path) -> set[str]:
    """All modules that a file imports, anywhere in it, with the names that it takes from them: 'a.b', 'a.b.c'."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return names


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_imports_point_down(path):
    room, modules = name_of(path).split('/')[0].removesuffix('.py'), imported_modules(path)
    rooms = {module.split('.')[1] for module in modules if module.startswith('onet_jax.')} - {'__version__', room}
    for other in rooms:
        assert FLOORS[other] < FLOORS[room] or (room, other) in NEIGHBOURS, (
            f'{path}: {room} imports {other}, which is not below it'
        )
    assert not rooms & UNSEEN.get(room, set())


@pytest.mark.parametrize('path', ALL, ids=name_of)
def test_packages_stay_in_their_rooms(path):
    for package in {module.split('.')[0] for module in imported_modules(path)} & HOMES.keys():
        assert name_of(path).startswith(HOMES[package] or '-'), f'{path} imports {package}'


def test_every_room_has_a_floor():
    rooms = {name_of(path).split('/')[0].removesuffix('.py') for path in ALL} - {'__init__'}
    assert rooms == FLOORS.keys()


@pytest.mark.parametrize(
    'text, allowed',
    [
        # Which fields a network sees, only fields know.
        ('config.data.input', {'data/fields.py'}),
        # Nobody rebuilds a network from a config.
        ('models.build(', {'run.py', 'training/loop.py', 'training/checkpoints.py', 'training/compile_ahead.py'}),
    ],
)
def test_some_things_are_done_in_one_place(text, allowed):
    folders = ROOT / 'onet_jax', ROOT / 'launch'
    files = {path.relative_to(ROOT).as_posix() for f in folders for path in f.rglob('*.py') if text in path.read_text()}
    assert files <= {f'onet_jax/{name}' for name in allowed}


def in_new_process(code: str) -> None:
    """Run lines of Python, after `import sys`; fails where they do."""
    done = subprocess.run([sys.executable, '-c', f'import sys\n{code}'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ABSENT = "assert not {'tensorflow', 'tensorflow_datasets', 'torch'} & sys.modules.keys()"


def test_the_core_imports_no_tensorflow_and_papers_on_demand():
    rooms = 'run', 'reproduce', 'inference.refine', 'evaluation.report', 'prepare.embedded', 'training.loop'
    in_new_process(f"""
import onet_jax
assert not {{'jax', 'tensorflow', 'torch'}} & sys.modules.keys(), 'its start-up is that of nothing'
import {', '.join(f'onet_jax.{room}' for room in rooms)}
from onet_jax.models import PAPERS
{ABSENT}
found = {{f'onet_jax.models.{{paper}}' for paper in PAPERS}} & sys.modules.keys()
assert len(PAPERS) > 1
assert not found, found
""")


def test_the_program_imports_no_multiprocessing_before_its_verb():
    """At its first import it takes `__main__` for the script that worker processes read again, and the verb replaces it."""
    in_new_process("import onet_jax.launch\nassert 'multiprocessing' not in sys.modules")


@pytest.mark.slow
def test_training_meshing_and_evaluation_take_no_tensorflow(dataset, tmp_path):
    """From the resident feed."""
    in_new_process(f"""
sys.path.insert(0, 'tests')
from model_configs import small_config
import onet_jax
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.run import load_run
from onet_jax.training.loop import train
train(small_config(num_steps=1), {str(tmp_path / 'run')!r}, {str(dataset)!r})
run = load_run({str(tmp_path / 'run')!r})
assert len(list(evaluate(run.method, run.params, run.config, open_dataset(run.data_dir), 'test'))) == 3
{ABSENT}
""")


def test_launch_files_are_thin():
    long = {p.name: n for p in (ROOT / 'launch').glob('[!_]*.py') if (n := len(p.read_text().splitlines())) > 70}
    assert not long, 'an entry point is flags and one call'
