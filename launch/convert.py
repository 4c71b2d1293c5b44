"""A workdir from an official checkpoint: onet convert --checkpoint=F.pt --config=configs/X.py --workdir=W.

Reads the `.pt` files of the official implementation (and `.safetensors`) without torch, and without running code in them.
`onet reconstruct`, `onet evaluate`, `onet sample` and `onet train` take the workdir.
"""

from absl import flags
from ml_collections import config_flags

from . import making_shapes, run_command, tell_next

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'File of weights.', required=True)
CONFIG = config_flags.DEFINE_config_file('config', None, 'Config of the network in the file.')
WORKDIR = flags.DEFINE_string('workdir', None, 'New folder.', required=True)
OPTIMIZER = flags.DEFINE_bool('optimizer', True, 'Take over the state of Adam, to go on training, where there is one.')
flags.mark_flag_as_required('config')


def main(_):
    from onet_jax.training.checkpoints import import_checkpoint

    step = import_checkpoint(CHECKPOINT.value, CONFIG.value, WORKDIR.value, optimizer=OPTIMIZER.value)
    done = f'{CHECKPOINT.value} -> {WORKDIR.value}, step {step}'
    tell_next(done, *making_shapes(CONFIG.value, WORKDIR.value))


if __name__ == '__main__':
    run_command(main)
