"""Train a config: python -m launch.train --config=configs/onet_points.py --workdir=runs/points [--data_dir=D].

Any value of the config can be overridden, as in --config.optim.learning_rate=3e-4. A workdir that holds checkpoints is
resumed. Without --data_dir the embedded dataset is built and cached. --profile writes a trace of a few steps into the
workdir.
"""

from absl import flags
from ml_collections import config_flags

import launch

CONFIG = config_flags.DEFINE_config_file('config', None, 'File of the config, optionally with a variant: FILE.py:tiny.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints and logs.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset written by launch.prepare; the embedded one by default.')
PROFILE = flags.DEFINE_bool('profile', False, 'Write a trace of a few steps, to see where the time goes.')
flags.mark_flag_as_required('config')


def main(_):
    from onet_jax.training.loop import train

    train(CONFIG.value, WORKDIR.value, DATA_DIR.value, profile=PROFILE.value)


if __name__ == '__main__':
    launch.run(main)
