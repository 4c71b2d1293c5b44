"""PSGN 4D, a baseline of Occupancy Flow (Niemeyer et al., ICCV 2019): 17 sets of 1,024 points from a clip of 300 noisy points.

    onet train --config=psgn4d --workdir=runs/psgn4d
    onet evaluate --workdir=runs/psgn4d

The loss is the Chamfer distance in each frame, or with `correspondence` that of the paths of points through all frames.
`images` reads a picture of each frame instead of points. The variant `tiny` has small networks, for two CPU cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

NUM_FRAMES = 17
VARIANTS = ('', 'tiny', 'correspondence', 'images', 'images,correspondence', 'tiny,images', 'tiny,correspondence')


def get_config(arg: str = '') -> ConfigDict:
    tiny, images, correspondence = choose('psgn4d', arg, ('tiny',), ('images',), ('correspondence',))
    return experiment(
        seed=0,
        model={
            'name': 'psgn4d',
            'encoder': 'conv_3D' if images else 'pointnet_resnet',
            'cond_size': 128 if tiny else 256 if images else 512,
            'encoder_hidden_size': (8 if tiny else 32) if images else 48 if tiny else 512,
            'decoder_hidden_size': 128 if tiny else 512,
            'num_points': 1024,  # predicted in a frame
            'num_frames': NUM_FRAMES,
            'correspondence': bool(correspondence),  # the loss compares paths, not frames
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': ('image_clip',) if images else ('clip',),
            'targets': ('trajectories',),
            'num_frames': NUM_FRAMES,  # of a clip
            'num_input_points': None if images else 300,
            'noise_std': None if images else 0.001,  # of the input points (Gaussian), in units of the longest edge
            'corresponding': None if images else True,  # a point of the input is one place of the body in all frames
            'keep_outliers': None if images else False,  # of a user's clouds: their stray points belong to the shape
            'image_size': (64 if tiny else 224) if images else None,  # px
            'num_trajectories': 100,  # surface points of a shape in the loss
            # The embedded dataset, built where no --data_dir is given.
            'families': ('human',) if tiny else (),  # () is all of them
            'num_shapes_per_family': 400 if tiny else 100,  # sequences
            'num_stored_frames': 20 if tiny else 32,  # of a sequence
            'num_points': 4096 if tiny else 100_000,  # of a frame
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(learning_rate=3e-3, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=2000, batch_size=16, log_every_steps=50, eval_every_steps=500, checkpoint_every_steps=500)
        if tiny
        else train(batch_size=16),
        eval=eval_(
            targets=('trajectories',), threshold=None, sample=None, select_by='loss' if correspondence else 'chamfer'
        ),
        mesh={},  # predictions are point clouds
    )
