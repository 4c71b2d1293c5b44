"""The measurements of a GPU: each row stands for itself, and all of them run in small on a CPU."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import benchmarks


def test_a_row_that_fails_or_is_not_reached_stops_no_other(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmarks, 'time', SimpleNamespace(monotonic=lambda: now[0]))

    def fail():
        raise ValueError('no | such program\nand more')

    def read_first():
        stored = json.loads((tmp_path / 'gpu.json').read_text())['rows']
        assert 'stopped' in stored['second']['not measured'], 'what is stopped in this row says so'
        assert stored['first']['error'] == 'ValueError: no | such program'
        return {'ms': 1.23456}

    def wait():
        now[0] += 10
        return {}

    rows = {'first': fail, 'second': read_first, 'slow': wait, 'last': read_first}
    found = benchmarks.measure_rows(rows, tmp_path, {'device': 'none'}, 10.0)
    assert found['slow']['seconds of the row'] == 10
    assert found['last'] == {'not measured': 'not reached in time'}
    assert json.loads((tmp_path / 'gpu.json').read_text()) == {'machine': {'device': 'none'}, 'rows': found}
    table = (tmp_path / 'gpu.md').read_text()
    assert '| first | error ValueError: no / such program, ' in table
    assert '| second | ms 1.235, ' in table
    assert 'and more' in capsys.readouterr().err


@pytest.mark.slow
def test_every_row_runs_in_small_on_a_cpu(tmp_path):
    command = [sys.executable, '-m', 'benchmarks.gpu', '--small', '--seconds=1200', f'--output={tmp_path}']
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr
    rows = json.loads((tmp_path / 'gpu.json').read_text())['rows']
    assert len(rows) == 8
    wrong = {name: figures for name, figures in rows.items() if {'error', 'not measured'} & figures.keys()}
    assert not wrong, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])['rows'] == rows
