"""3D-R2N2 (Choy et al., ECCV 2016), a baseline of the paper: 32^3 voxels from one picture or 300 points.

    onet train --config=r2n2 --workdir=runs/r2n2
    onet evaluate --workdir=runs/r2n2

Published on ShapeNet (13 classes), in the tables of Occupancy Networks:

    variant   IoU    Chamfer-L1 (x10)  normal consistency
    (images)  0.493  0.278             0.695
    points    0.565  0.169             0.719

The official code evaluates IoU at the threshold 0.4 and, whatever its config says, makes meshes at 0.5: `onet evaluate
--threshold=0.5` does the latter. `encoder=r2n2_simple` and `encoder=r2n2_resnet` are the encoders of Choy et al., for
pictures of 127 px. The variant `tiny` has small networks, and takes about six minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

ENCODERS = ('encoder=r2n2_simple', 'encoder=r2n2_resnet')
VARIANTS = ('', 'tiny', 'points', 'tiny,points', *ENCODERS)


def get_config(arg: str = '') -> ConfigDict:
    tiny, special = choose('r2n2', arg, ('tiny',), ('points', *ENCODERS))
    points = special == 'points'
    own = special.removeprefix('encoder=') if special in ENCODERS else ''
    return experiment(
        seed=0,
        model={
            'name': 'r2n2',
            'encoder': own or ('pointnet_resnet' if points else 'simple_conv' if tiny else 'resnet18'),
            'decoder': 'simple',
            'cond_size': 1024 if own else 128 if tiny else 512 if points else 256,
            'encoder_hidden_size': None if own else 48 if tiny and points else 16 if tiny else 512 if points else None,
            'decoder_hidden_size': 32 if tiny else 256,
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('cloud',) if points else ('image',),
            'targets': ('voxels',),
            'num_input_points': 300 if points else None,
            'noise_std': 0.005 if points else None,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False if points else None,  # of a user's cloud: its stray points belong to the shape
            'partial': False if points else None,  # clouds lack up to 30 % of the shape along an axis
            'image_size': None if points else 127 if own else 64 if tiny else 224,  # px
            'augment': None if points else False,  # train on random square crops of 75 to 100 % of the area of a view
            'sampling': 'uniform',  # of the dataset's points
            # The embedded dataset, built where no --data_dir is given.
            'families': (),  # () is all of them
            'num_shapes_per_family': 80 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 0 if points else 24,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(
            num_steps=2300, batch_size=32, log_every_steps=50, eval_every_steps=1000, checkpoint_every_steps=500
        )
        if tiny
        else train(),
        eval=eval_(threshold=0.4, sample=None),
        mesh={},  # predictions are voxels
    )
