"""Kills a training run again and again and starts it again: python kill_driver.py DATA_DIR FOLDER NUM_KILLS SEED.

Everything is imported once and each run is a fork of this process, in which JAX never starts: a restart takes a second.
The last line that is printed is a JSON record, which `kill_test.py` judges.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import numpy as np
from model_configs import small_config, tiny_method

from onet_jax import models
from onet_jax.training import checkpoints, loop, storage

INTERVAL = 2  # steps between two checkpoints


def digest(state) -> str:
    """Of all arrays of a state."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        content.update(np.asarray(leaf).tobytes())
    return content.hexdigest()


def train(workdir: Path, data_dir: Path, num_steps: int, notes: Path) -> None:
    """A run that notes the step and the digest of every state that it saves or goes on from."""
    config = small_config(num_steps=num_steps, batch_size=2, checkpoint_every_steps=INTERVAL, eval_every_steps=10)
    with notes.open('a', buffering=1) as file:

        def noting(what, function, place):
            def noted(*args, **kwargs):
                result = function(*args, **kwargs)
                state = place(args, result)
                file.write(json.dumps([what, int(state.step), digest(state)]) + '\n')
                return result

            return noted

        storage.Checkpointer.save = noting('saved', storage.Checkpointer.save, lambda args, _: args[2])
        models.build = tiny_method
        checkpoints.restore = noting('restored', checkpoints.restore, lambda _, state: state)
        loop.train(config, workdir, data_dir)


def start(*args) -> int:
    """A forked run; its process."""
    process = os.fork()
    if process == 0:
        output = os.open(args[3].with_suffix('.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        try:
            train(*args)
            os._exit(0)
        finally:
            # Whatever ended the run: the copy of the parent that this process is must not go on in its place.
            traceback.print_exc()
            os._exit(1)
    return process


def is_over(process: int) -> bool:
    return os.waitpid(process, os.WNOHANG)[0] == process


def last_logged_step(workdir: Path) -> int:
    lines = (workdir / 'log.jsonl').read_text().rpartition('\n')[0].splitlines()
    return json.loads(lines[-1])['step'] if lines else 0


def main(data_dir: Path, folder: Path, num_kills: int, seed: int) -> dict:
    rng = random.Random(seed)
    workdir, directory, lost, inside, kills = folder / 'cut', folder / 'cut' / 'checkpoints', [], 0, 0
    endless = 10_000
    while kills < num_kills:
        process = start(workdir, data_dir, endless, folder / 'notes.jsonl')
        steps = set(storage.find_steps(directory))
        in_save = kills % 2 == 0
        # Wait for the first save of this run, then for a moment that is drawn: anywhere, or within a save.
        while set(storage.find_steps(directory)) == steps:
            if is_over(process):
                raise RuntimeError(f'a run ended by itself, see {folder / "notes.txt"}')
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        if in_save:
            while not list(directory.glob(f'*{storage.UNFINISHED}*')):
                pass
            time.sleep(rng.uniform(0, 0.06))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        kills += 1
        inside += any(directory.glob(f'*{storage.UNFINISHED}*')) or any(directory.glob(f'*{storage.DELETED}'))
        damages = [storage.find_damage(directory / str(step)) for step in storage.find_steps(directory)]
        lost.append((last_logged_step(workdir), storage.find_steps(directory)[-1], [d for d in damages if d]))
    num_steps = storage.find_steps(directory)[-1] + 3
    for place in ('cut', 'whole'):
        process = start(folder / place, data_dir, num_steps, folder / f'{place}.jsonl')
        if os.waitpid(process, 0)[1]:
            raise RuntimeError(f'the run in {place} failed')
    return {'kills': kills, 'inside': inside, 'lost': lost, 'num_steps': num_steps}


if __name__ == '__main__':
    arguments = sys.argv[1:]
    print(json.dumps(main(Path(arguments[0]), Path(arguments[1]), int(arguments[2]), int(arguments[3]))))
