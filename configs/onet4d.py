"""ONet 4D, a baseline of Occupancy Flow (Niemeyer et al., ICCV 2019): a mesh for each frame of a clip of 300 noisy points.

    onet train --config=onet4d --workdir=runs/onet4d
    onet evaluate --workdir=runs/onet4d

A clip has 17 frames, whose points correspond. `images` reads a picture of each frame instead. The variant `tiny` has small
networks, for two CPU cores; `occupancy_flow.py:tiny` learns from the same sequences.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

VARIANTS = ('', 'tiny', 'images', 'tiny,images')


def get_config(arg: str = '') -> ConfigDict:
    tiny, images = choose('onet4d', arg, ('tiny',), ('images',))
    return experiment(
        seed=0,
        model={
            'name': 'onet4d',
            'encoder': 'conv_3D' if images else 'pointnet_resnet',
            'decoder': 'cbatchnorm',
            'cond_size': 128 if tiny else 256 if images else 512,
            'encoder_hidden_size': (8 if tiny else 32) if images else 64 if tiny else 512,
            'decoder_hidden_size': 128 if tiny else 256,
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': ('image_clip',) if images else ('clip',),
            'targets': ('later_points',),
            'num_frames': 17,  # of a clip
            'num_input_points': None if images else 300,
            'noise_std': None if images else 0.001,  # of the input points (Gaussian), in units of the longest edge
            'corresponding': None if images else True,  # a point of the input is one place of the body in all frames
            'keep_outliers': None if images else False,  # of a user's clouds: their stray points belong to the shape
            'image_size': (64 if tiny else 224) if images else None,  # px
            'num_points_per_step': 512,  # of one random frame
            'sampling': 'surface' if tiny else 'uniform',  # of the dataset's points
            # The embedded dataset, built where no --data_dir is given.
            'families': ('human',) if tiny else (),  # () is all of them
            'num_shapes_per_family': 400 if tiny else 100,  # sequences
            'num_stored_frames': 20 if tiny else 32,  # of a sequence
            'num_points': 4096 if tiny else 100_000,  # of a frame
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=2000, batch_size=16, log_every_steps=50, eval_every_steps=500, checkpoint_every_steps=500)
        if tiny
        else train(batch_size=16),
        eval=eval_(targets=('volume_clip',), threshold=0.5 if tiny else 0.3),
        mesh=mesh(),
    )
