from contextlib import closing
from pathlib import Path

import pytest

from onet_jax.training import log
from onet_jax.training.log import RunLog, banner, read_log


def test_the_banner_warns_of_an_unused_gpu(monkeypatch):
    monkeypatch.setattr(log, 'gpu_present', lambda: False)
    assert 'WARNING' not in banner()
    assert 'devices: 2 x cpu' in banner()
    monkeypatch.setattr(log, 'gpu_present', lambda: True)
    assert 'WARNING: this machine has an NVIDIA GPU, but JAX runs on the CPU.' in banner()


def test_the_progress_line_takes_compilation_and_validation_out_of_the_speed(tmp_path, monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(log.time, 'monotonic', lambda: now)
    run_log = RunLog(tmp_path, num_steps=100)
    now = 130.0
    run_log.compiled(30.0)
    run_log.train(1, {'loss': 20.0})
    now = 131.0
    run_log.compiled(1.0)  # as where the first record is of a later step
    now = 135.0
    run_log.waited(1.0)
    run_log.train(10, {'loss': 12.345}, 'ETA 0:45')
    run_log.validation(10, {'iou': 0.5, 'chamfer': 0.25}, 'chamfer')
    now = 145.0  # 8 seconds of validation, 2 of training
    run_log.resume_clock(8.0)
    run_log.train(20, {'loss': 11.0}, 'ETA 0:16')
    run_log.close()
    compiled, first, second = capsys.readouterr().err.splitlines()
    assert compiled == 'step 1/100  loss 20.00  compiled and run in 30 s'
    assert first == 'step 10/100  loss 12.35  2.0 steps/s  waiting for data 25%  ETA 0:45'
    assert second == 'step 20/100  loss 11.00  chamfer 0.250  5.0 steps/s  waiting for data 0%  ETA 0:16'
    assert read_log(tmp_path, 'train/loss') == [(1, 20.0), (10, 12.345), (20, 11.0)]
    assert read_log(tmp_path, 'train/steps_per_second') == [(10, 2.0), (20, 5.0)]
    assert sum(seconds for _, seconds in read_log(tmp_path, 'train/seconds')) == 37, 'validation alone is left out'
    assert read_log(tmp_path, 'val/iou') == [(10, 0.5)]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path, capsys):
    (tmp_path / 'log.jsonl').write_text('{"step": 1, "train/loss": 1.0}\n{"step": 2, "train/lo')
    assert read_log(tmp_path, 'train/loss') == [(1, 1.0)]
    run_log = RunLog(tmp_path, num_steps=9)
    run_log.train(3, {'loss': 2.0})
    run_log.close()
    assert read_log(tmp_path, 'train/loss') == [(1, 1.0), (3, 2.0)]


def test_repeated_steps_keep_the_newest_value(tmp_path):
    (tmp_path / 'log.jsonl').write_text(
        '{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0, "b": 5.0}\n{"step": 1, "a": 3.0}\n'
    )
    assert read_log(tmp_path, 'a') == [(1, 3.0), (2, 2.0)]
    assert read_log(tmp_path, 'b') == [(2, 5.0)]
    assert read_log(tmp_path, 'c') == []
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path / 'nowhere', 'a')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='a device of Linux')
def test_a_log_for_which_there_is_no_room_is_named(tmp_path):
    with closing(RunLog(tmp_path, 10)) as log, open('/dev/full', 'ab', buffering=0) as full:
        log._file.close()
        log._file = full
        with pytest.raises(OSError, match=r'/dev/full: expected to write the log, found: No space left .* are intact'):
            log.train(1, {'loss': 1.0})
