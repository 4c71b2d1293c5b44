"""The architecture: an import may only point down, and data never sees a network."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    'conventions': 0, 'errors': 0, 'files': 0, 'geometry': 1, 'parallel': 1,
    'networks': 2, 'data': 2, 'prepare': 2, 'losses': 2, 'metrics': 2, 'scores': 2,
    'models': 3, 'convert': 4, 'viz': 4, 'inference': 5, 'evaluation': 5, 'training': 6, 'run': 7, 'reproduce': 8,
}  # fmt: skip
FILES = [p for p in sorted((ROOT / 'onet_jax').rglob('*.py')) if p.parent != ROOT / 'onet_jax' or p.stem in FLOORS]


def imported_rooms(path: Path) -> set[str]:
    """The parts of onet_jax that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[1] for alias in node.names if alias.name.startswith('onet_jax.')}
        elif isinstance(node, ast.ImportFrom) and node.module == 'onet_jax':
            names |= {alias.name for alias in node.names} - {'__version__'}
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('onet_jax.'):
            names.add(node.module.split('.')[1])
    return names


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT / 'onet_jax').parts[0].removesuffix('.py')
    for other in imported_rooms(path) - {room}:
        # What prepares a dataset writes what `data` reads.
        below = FLOORS[other] < FLOORS[room] or (room, other) == ('prepare', 'data')
        assert below, f'{path}: {room} imports {other}, which is not below it'
    if room in ('data', 'prepare'):
        assert not imported_rooms(path) & {'networks', 'models'}


def imported_packages(path: Path) -> set[str]:
    """The top-level names that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or '').split('.')[0])
    return names


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_packages_stay_in_their_rooms(path):
    """flax lives in networks and models, TensorFlow in two files of data; nobody needs torch."""
    relative, packages = path.relative_to(ROOT / 'onet_jax'), imported_packages(path)
    assert 'torch' not in packages
    if 'flax' in packages:
        assert relative.parts[0] in ('networks', 'models')
    if packages & {'tensorflow', 'tensorflow_datasets'}:
        assert str(relative) in ('data/tfds_builder.py', 'data/streamed.py')


def test_the_core_imports_without_tensorflow():
    modules = ['onet_jax', 'onet_jax.training.loop', 'onet_jax.evaluation.report', 'onet_jax.prepare.embedded']
    code = f'import sys; import {", ".join(modules)}; sys.exit("tensorflow" in sys.modules or "torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_launch_files_are_thin():
    long = {p.name: n for p in (ROOT / 'launch').glob('*.py') if (n := len(p.read_text().splitlines())) > 70}
    assert not long, 'an entry point is flags and one call'
