"""A run that is killed, without any chance to tidy up, goes on as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERVAL = 2  # of `kill_driver.py`
NUM_KILLS = 12


def read_notes(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_for_bit_as_one_that_was_not(dataset, tmp_path):
    """Every second kill comes while a checkpoint is being written."""
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}'}
    command = [sys.executable, ROOT / 'tests/training/kill_driver.py', dataset, tmp_path, str(NUM_KILLS), '0']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    print(record)
    assert record['kills'] == NUM_KILLS
    assert record['inside'] >= 2, 'kills that left an unfinished save'
    for logged, latest, damages in record['lost']:
        assert damages == [], 'what is there is complete'
        assert logged - latest <= INTERVAL

    whole = {step: digest for what, step, digest in read_notes(tmp_path / 'whole.jsonl') if what == 'saved'}
    notes = read_notes(tmp_path / 'notes.jsonl') + read_notes(tmp_path / 'cut.jsonl')
    assert sum(what == 'restored' for what, _, _ in notes) >= NUM_KILLS
    for what, step, digest in notes:
        # The run that was not interrupted saves at its last step too, which the others pass.
        assert whole[step] == digest, f'{what} at step {step}'
    assert notes[-1][1] == record['num_steps'], 'the last step was reached'
