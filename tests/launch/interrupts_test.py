"""Control-C, as a user presses it: one sentence and exit code 130, whatever the program is doing."""

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
STOPPED = '\nstopped by control-C; what was finished is kept\n'


@pytest.mark.parametrize(
    'kind, patience, interrupts, said',
    [
        ('python', 60, 1, STOPPED),
        ('native', 0.2, 1, STOPPED),
        ('swallowed', 0.2, 1, STOPPED),
        ('collected', 60, 1, STOPPED),
        ('native', 60, 2, STOPPED),
        ('handled', 0.2, 2, 'the program stops as soon as it can; control-C again ends it at once\n' + STOPPED),
    ],
)
def test_control_c_ends_a_program(kind, patience, interrupts, said):
    argv = [sys.executable, '-c', PROGRAM, kind, str(patience)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == 'ready\n'
        for _ in range(interrupts):
            os.kill(run.pid, signal.SIGINT)
            time.sleep(0.5)
        _, stderr = run.communicate(timeout=30)
    assert (run.returncode, stderr) == (130, said)
