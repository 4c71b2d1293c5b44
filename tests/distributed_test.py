"""Training over several processes, for real: each has two CPU devices of its own and they talk over gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from model_configs import small_config

from onet_jax.training import checkpoints, loop
from onet_jax.training.log import read_log

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 240  # seconds, after which all processes of a run are killed

# What one process does: train, or resume, and tell the losses that it saw.
PROGRAM = """
import json, sys
address, count, process, workdir, data_dir, settings = sys.argv[1:]
from onet_jax.parallel import start_processes
if int(count) > 1:
    start_processes(address, int(count), int(process))
import jax
from model_configs import small_config
from onet_jax.training.loop import train
settings = json.loads(settings)
config = small_config(**settings.get('train', {}))
with config.unlocked():
    config.data.update(settings.get('data', {}))
state = train(config, workdir, data_dir)
print('step', int(state.step), 'devices', len(jax.devices()), 'of', jax.process_count())
"""
