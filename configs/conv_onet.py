"""Convolutional Occupancy Networks (Peng et al., ECCV 2020): a mesh from 3,000 noisy points or from 32^3 voxels.

    onet train --config=conv_onet --workdir=runs/planes

Published on ShapeNet (13 classes):

    variant            IoU    Chamfer-L1 (x10)  normal consistency  F-score (1 %)
    pointconv          0.689  0.126             0.858               0.644    (a baseline: PointNet++)
    maps=xz            0.833  0.059             0.914               0.887
    maps=planes        0.884  0.044             0.938               0.942    (the default)
    maps=grid          0.870  0.048             0.937               0.933
    voxels,maps=xz     0.652  0.145             0.861               0.592
    voxels,maps=planes 0.752  0.092             0.905               0.735
    voxels,maps=grid   0.752  0.091             0.912               0.729

With `partial` clouds lack a part of the shape, up to 30 % of its extent along an axis (shape completion).

The variant `tiny` has small networks for two CPU cores. With feature planes they learn the embedded dataset in twelve minutes
from 300 points, the input of `onet_points.py:tiny` too, and in eight from 3,000 (`points=3000`).
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train
from onet_jax.errors import InputError

POINTS = {'points=300': 300, 'points=3000': 3000}
PLANES = ('xz', 'xy', 'yz')
MAPS = {'maps=xz': PLANES[:1], 'maps=planes': PLANES, 'maps=grid': ('grid',), 'maps=all': (*PLANES, 'grid')}
VARIANTS = ('', 'tiny', *POINTS, 'voxels', 'tiny,voxels', *MAPS, 'pointconv', 'tiny,pointconv', 'partial')


def get_config(arg: str = '') -> ConfigDict:
    options = (('tiny',), ('voxels',), POINTS, ('partial',), (*MAPS, 'pointconv'))
    tiny, voxels, points, partial, network = choose('conv_onet', arg, *options)
    pointconv = network == 'pointconv'
    if voxels and (points or partial or pointconv):
        raise InputError(f'configs/conv_onet.py: expected voxels, or a variant of clouds, found {arg!r}')
    if pointconv:
        model = {
            'name': 'conv_onet',
            'encoder': 'pointnet_plus_plus',
            'decoder': 'simple_local_point',
            'cond_size': 32,
            'encoder_hidden_size': 16 if tiny else 64,
            'decoder_hidden_size': 32,
            'num_centres': (128, 32) if tiny else (512, 128),  # groups of points, on two levels
        }
    else:
        model = {
            'name': 'conv_onet',
            'encoder': 'voxel_simple_local' if voxels else 'pointnet_local_pool',
            'decoder': 'simple_local',
            'cond_size': 32,  # channels of the feature maps
            'encoder_hidden_size': None if voxels else 32,
            'pooling': None if voxels else 'max',  # 'max' or 'mean' of the points in a cell
            'cell_coordinates': None if voxels else bool(tiny),  # the encoder also sees where in its cell a point lies
            'decoder_hidden_size': 128 if tiny else 32,
            'maps': MAPS.get(network, PLANES),
            'plane_resolution': 64,
            'unet_depth': 4,  # levels of the U-Net of planes
            'unet_size': 16 if tiny else 32,  # its channels on the first of them
            'grid_resolution': 16 if tiny else 32,
            'unet3d_levels': 2 if tiny else 3,
            'unet3d_size': 16 if tiny else 32,
            'interpolation': 'linear',  # sampling of the maps, 'linear' or 'nearest'
            'align_corners': bool(voxels) or not tiny,  # of this sampling; True, half a cell off, in official networks
        }
    num_steps = 1750 if points == 'points=3000' else 3300  # of tiny networks
    return experiment(
        seed=0,
        model=model,
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('voxels',) if voxels else ('cloud',),
            'targets': ('volume_points',),
            'num_input_points': None if voxels else POINTS.get(points, 300 if tiny else 3000),
            'noise_std': None if voxels else 0.005,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': None if voxels else False,  # of a user's cloud: its stray points belong to the shape
            'partial': None if voxels else bool(partial),  # clouds lack up to 30 % of the shape along an axis
            'num_points_per_step': 1024 if voxels else 2048 if not tiny else 256 if pointconv else 512,
            'num_near_points': 0 if not tiny else 208 if pointconv else 416,  # nearest to the surface; 0: as drawn
            'sampling': 'uniform',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': (),  # () is all of them
            'num_shapes_per_family': 80 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 0,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=5e-3 if pointconv else 2e-3, schedule='cosine', warmup_steps=100)
        if tiny
        else optim(),
        train=train(
            num_steps=num_steps,
            batch_size=16 if voxels else 8,
            log_every_steps=50,
            eval_every_steps=num_steps // 5,
            checkpoint_every_steps=num_steps // 5,
        )
        if tiny
        else train(batch_size=64 if voxels else 24 if pointconv else 32),
        eval=eval_(targets=('volume_points',), threshold=0.4) if tiny else eval_(),
        mesh=mesh(),
    )
