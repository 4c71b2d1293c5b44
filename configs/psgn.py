"""PSGN (Fan et al., CVPR 2017), a baseline of the paper: a set of 1,024 points from one picture or 300 points.

    onet train --config=psgn --workdir=runs/psgn
    onet evaluate --workdir=runs/psgn

Published on ShapeNet (13 classes), in the tables of Occupancy Networks; a set of points has no IoU and no normals:

    variant   Chamfer-L1 (x10)
    (images)  0.215
    points    0.144

`2branch` has the encoder and the decoder of Fan et al., for pictures of 192 px on white. The variant `tiny` has small
networks, for two CPU cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

# Variant -> encoder, channels of the condition, widths of encoder and decoder
NETWORKS = {
    '': ('resnet18', 256, None, 512),
    'tiny': ('simple_conv', 128, 16, 128),
    'points': ('pointnet_resnet', 512, 512, 512),
    'tiny,points': ('pointnet_resnet', 128, 48, 128),
    '2branch': ('psgn_cond', 512, None, None),
}
VARIANTS = tuple(NETWORKS)


def get_config(arg: str = '') -> ConfigDict:
    tiny, special = choose('psgn', arg, ('tiny',), ('points', '2branch'))
    points, branches = special == 'points', special == '2branch'
    encoder, cond_size, encoder_hidden_size, decoder_hidden_size = NETWORKS[
        special if branches else ','.join(filter(None, (tiny, special)))
    ]
    return experiment(
        seed=0,
        model={
            'name': 'psgn',
            'encoder': encoder,
            'decoder': 'psgn_2branch' if branches else 'simple',
            'cond_size': cond_size,
            'encoder_hidden_size': encoder_hidden_size,
            'decoder_hidden_size': decoder_hidden_size,
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('cloud',) if points else ('image',),
            'targets': ('surface_samples',),
            'num_target_points': 1024,  # surface samples of a shape in the loss
            'num_input_points': 300 if points else None,
            'noise_std': 0.005 if points else None,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False if points else None,  # of a user's cloud: its stray points belong to the shape
            'partial': False if points else None,  # clouds lack up to 30 % of the shape along an axis
            'image_size': None if points else 192 if branches else 64 if tiny else 224,  # px
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
            num_steps=2200, batch_size=32, log_every_steps=50, eval_every_steps=1000, checkpoint_every_steps=500
        )
        if tiny
        else train(),
        eval=eval_(targets=('surface_samples',), threshold=None, sample=None, select_by='chamfer'),
        mesh={},  # predictions are point clouds
    )
