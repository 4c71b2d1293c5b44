"""Occupancy Flow (Niemeyer et al., ICCV 2019): a shape that moves, from a clip of 17 clouds of 300 noisy points.

    onet train --config=occupancy_flow --workdir=runs/flow
    onet evaluate --workdir=runs/flow

A point of the input is the same place of the body in all frames. The experiments of the paper are variants:

    variant          reads                                  learns from
    (completion)     17 clouds of 300 points                occupancies at two times
    correspondence   the same                               and trajectories of 100 surface points
    images           17 pictures (with ,correspondence)     occupancies at two times
    interpolation    the first and the last cloud of 30     trajectories, from both ends
    matching         the same, without correspondence       trajectories
    generative       nothing: two latent codes              occupancies and trajectories
    representation   nothing: one sequence of 50 frames     occupancies at two times

`representation` is validated on its one sequence, evaluated by `onet evaluate --split=train`, written by `onet sample`. Thin
parts of a sequence of yours need points near the surface: `onet prepare --sequences=DIR --sampling=surface`.

The networks `interpolation` and `matching` have no decoder: they move points that the user gives. The variant `tiny` has small
networks and goes with all of them, for two CPU cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

EXPERIMENTS = ('images', 'interpolation', 'matching', 'generative', 'representation')
VARIANTS = (
    '', 'correspondence', *EXPERIMENTS, 'images,correspondence',
    'tiny', 'tiny,correspondence', *(f'tiny,{name}' for name in EXPERIMENTS),
)  # fmt: skip


def get_config(arg: str = '') -> ConfigDict:
    tiny, correspondence, kind = choose('occupancy_flow', arg, ('tiny',), ('correspondence',), EXPERIMENTS)
    images, ends = kind == 'images', kind in ('interpolation', 'matching')
    is_one = kind == 'representation'
    unconditional = is_one or kind == 'generative'
    has_trajectories = bool(correspondence) or ends or kind == 'generative'
    wide = bool(kind) or bool(correspondence)  # all networks but that of completion by occupancies alone
    inputs = 'none' if unconditional else 'image_clip' if images else 'end_clouds' if ends else 'clip'
    has_clouds = inputs in ('clip', 'end_clouds') or kind == 'generative'
    num_input_points = corresponding = keep_outliers = None
    if has_clouds:
        num_input_points = 4000 if kind == 'generative' else 300 if inputs == 'clip' else 1000 if tiny else 10_000
        corresponding, keep_outliers = kind != 'matching', False
    # Most of a step is pulling the later points back; the tiny network learns the motion from trajectories, where it has them.
    quick = tiny and has_trajectories
    targets = [
        *(() if ends else ('start_points',) if quick else ('start_points', 'later_points')),
        *(('trajectories',) if has_trajectories else ()),
        *(('clip',) if kind == 'generative' else ()),
    ]
    return experiment(
        seed=0,
        model={
            'name': 'occupancy_flow',
            'encoder': 'none' if unconditional or ends else 'resnet18' if images else 'pointnet_resnet',
            'encoder_temporal': {
                'image_clip': 'conv_3D',
                'end_clouds': 'pointnet_2stream',
                'clip': 'pointnet_resnet',
                'none': 'none',
            }[inputs],
            'decoder': 'none' if ends else 'simple' if unconditional else 'cbatchnorm',
            'cond_size': 128 if tiny else 256 if images else 512 if wide else 128,  # of the codes of shape and motion
            'encoder_hidden_size': (
                (8 if tiny else 32) if images else 64 if tiny else 512 if wide and kind != 'generative' else 128
            ),
            'decoder_hidden_size': 128 if unconditional or tiny else 256,
            'velocity_hidden_size': 64 if tiny else 512 if wide and not unconditional else 128,
            'velocity_blocks': 2 if tiny else 3 if kind == 'generative' else 5,
            'latent_size': (32 if tiny else 128) if kind == 'generative' else 0,  # of the codes of shape and motion
            'leaky': False,  # leaky ReLUs (slope 0.2) before the last layers
            'backward': kind == 'interpolation',  # trajectories also from the last frame back
            'rtol': 1e-2 if tiny else 1e-3,  # of the solver: an error of a step below atol + rtol * coordinate
            'atol': 1e-4 if tiny else 1e-5,
            'max_steps': 128,  # of the solver
            'adjoint': 'backpropagation',  # or 'continuous', which needs less memory, and is less exact
            'shared_steps': False,  # all sequences of a batch take the same steps, as in the official code
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': (inputs,),
            'targets': tuple(targets),
            'num_frames': 30 if ends and not tiny else 50 if is_one else 17,  # of a clip
            'num_input_points': num_input_points,
            'noise_std': 0.0 if kind == 'generative' else 0.001 if inputs == 'clip' else None,  # of the input points
            'corresponding': corresponding,  # a point of the input is one place of the body in all frames
            'keep_outliers': keep_outliers,  # of a user's clouds: their stray points belong to the shape
            'image_size': (64 if tiny else 224) if images else None,  # px
            'num_points_per_step': None if ends else 512,  # of a frame
            'sampling': 'surface' if tiny else 'uniform',  # of the dataset's points
            'num_trajectories': 100 if has_trajectories else None,  # corresponding surface points of a step
            # The embedded dataset, built where no --data_dir is given.
            'families': ('human',) if tiny or is_one else (),  # () is all of them
            'num_shapes_per_family': 1 if is_one else 400 if tiny else 100,  # sequences
            'num_stored_frames': 50 if is_one else 20 if tiny else 32,  # of a sequence
            'num_points': 4096 if tiny and not is_one else 100_000,  # of a frame
            'val_fraction': 0.0 if is_one else 0.1,
            'test_fraction': 0.0 if is_one else 0.1,
            'dataset_seed': 0,
        },
        optim=optim(
            name='muon',
            # Without trajectories nothing holds the points at first: at a high rate the velocity field carries them far away.
            learning_rate=5e-3 if has_trajectories or is_one else 1e-3,
            schedule='cosine',
            warmup_steps=100,
            ema_decay=0.99,
        )
        if tiny
        else optim(),
        train=train(num_steps=3200, batch_size=16, log_every_steps=50, eval_every_steps=800, checkpoint_every_steps=200)
        if tiny
        else train(batch_size=8 if ends else 16),
        eval=eval_(
            batch_size=8,
            split='train' if is_one else 'val',
            targets=('trajectories',)
            if ends
            else ('volume_clip', 'trajectories')
            if has_trajectories
            else ('volume_clip',),
            threshold=None if ends else 0.5 if tiny else 0.3,
            sample=None if ends else False,
            select_by='correspondence_l2' if ends else 'iou',
            project_last=True if kind == 'matching' else None,  # in evaluation the last frame is moved to the target
        ),
        mesh={} if ends else mesh(),
    )
