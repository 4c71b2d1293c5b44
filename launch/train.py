"""Train a config: onet train --config=onet_points --workdir=runs/points [--data_dir=D].

Any value of the config can be overridden, as in --config.optim.learning_rate=3e-4. A workdir that holds checkpoints is
resumed. Without --data_dir the embedded dataset is built and cached. --profile writes a trace of a few steps into the
workdir. --view shows the latest reconstructions in the browser, by a link (pip install -e '.[view]'). --print_config shows all
values of the config with their comments.

All devices of this machine take part. Over several processes or hosts (docs/tpu_pod.md) the same command runs in each of
them, on a TPU slice, under SLURM, Open MPI or Kubernetes with --distributed, elsewhere with the three other flags.

Exit codes: 0 when the last step is done; 75 when SIGTERM or control-C stopped the run, which first saves a checkpoint; 130
when a second control-C ended it at once, such as in a long compilation; 1 with a message for anything that is wrong with input,
workdir or loss. The same command resumes from the last checkpoint, after a crash or kill -9 too.
"""

from absl import flags
from ml_collections import config_flags

from onet_jax.configs import describe
from onet_jax.errors import InputError
from onet_jax.progress import mute

from . import run_command, tell_next

CONFIG = config_flags.DEFINE_config_file('config', None, 'File of the config, optionally with a variant: FILE.py:tiny.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of checkpoints and logs.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset written by onet prepare; the embedded one by default.')
PRINT_CONFIG = flags.DEFINE_bool('print_config', False, 'Show the resolved values of the config, and do nothing else.')
VIEW = flags.DEFINE_bool('view', False, 'Show the latest reconstructions in the browser.')
PROFILE = flags.DEFINE_bool('profile', False, 'Write a trace of a few steps, to see where the time goes.')
ACCEPT_CHANGES = flags.DEFINE_bool('accept_changes', False, 'Resume a run with a config that differs from its own.')
MAX_BAD_EXAMPLES = flags.DEFINE_integer('max_bad_examples', 0, 'How many shapes that cannot be read may be left out.')
COORDINATOR = flags.DEFINE_string('coordinator_address', None, 'HOST:PORT that process 0 listens on.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Processes of the run.', lower_bound=1)
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.', lower_bound=0)
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Take these three from the cluster.')
flags.mark_flag_as_required('config')


def main(_):
    if PRINT_CONFIG.value:
        file, _, _ = config_flags.get_config_filename(flags.FLAGS['config']).partition(':')
        print(describe(CONFIG.value, file))
        return
    if WORKDIR.value is None:
        raise InputError('--workdir: expected the folder of the run, found none; give a new folder or one to go on in')
    mute(DISTRIBUTED.value or bool(PROCESS_ID.value))  # until JAX knows which process this is
    from onet_jax.parallel import is_first_process, leaving_at_once, start_processes

    start_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, detect=DISTRIBUTED.value)
    from onet_jax.training.loop import train
    from onet_jax.viz.viewer import showing

    with leaving_at_once(), showing(WORKDIR.value, VIEW.value and is_first_process()) as show:
        train(
            CONFIG.value,
            WORKDIR.value,
            DATA_DIR.value,
            profile=PROFILE.value,
            accept_changes=ACCEPT_CHANGES.value,
            max_bad_examples=MAX_BAD_EXAMPLES.value,
            show=show,
        )
    if is_first_process():
        done = f'{WORKDIR.value}: trained for {CONFIG.value.train.num_steps} steps'
        tell_next(done, 'onet', 'evaluate', f'--workdir={WORKDIR.value}')


if __name__ == '__main__':
    run_command(main)
