"""Control-C, as a user presses it, and SIGTERM: one sentence and exit code 130, whatever the program is doing."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import hashlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
import onet_jax.launch as launch
launch.PATIENCE = float(sys.argv.pop())
kind = sys.argv.pop()

class Slow:
    def __del__(self):  # what it raises is ignored
        time.sleep(60)

def main(_):
    if kind == 'handled':
        signal.signal(signal.SIGINT, lambda *_: None)
    print('ready', flush=True)
    if kind == 'collected':
        Slow()
    if kind == 'native':  # code of a minute, in which the interpreter acts upon no signal
        hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)
    for _ in range(600):
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            if kind != 'swallowed':
                raise

launch.run_command(main)
"""
STOPPED = '\nstopped by a signal; what was finished is kept\n'


@pytest.mark.parametrize(
    'kind, patience, signals, said',
    [
        ('python', 60, [signal.SIGINT], STOPPED),
        ('python', 60, [signal.SIGTERM], STOPPED),
        ('native', 0.2, [signal.SIGTERM], STOPPED),
        *(
            pytest.param(*case, STOPPED, marks=pytest.mark.slow)
            for case in (
                ('swallowed', 0.2, [signal.SIGINT]),
                ('collected', 60, [signal.SIGINT]),
                ('native', 60, [signal.SIGINT, signal.SIGTERM]),
            )
        ),
        (
            'handled',
            0.2,
            [signal.SIGINT, signal.SIGINT],
            'the program stops as soon as it can; control-C again ends it at once\n' + STOPPED,
        ),
    ],
)
def test_a_signal_ends_a_program(kind, patience, signals, said):
    argv = [sys.executable, '-c', PROGRAM, kind, str(patience)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == 'ready\n'
        for number in signals:
            os.kill(run.pid, number)
            time.sleep(0.5)
        _, stderr = run.communicate(timeout=30)
    assert (run.returncode, stderr) == (130, said)
