"""Convolutional Occupancy Networks (Peng et al., ECCV 2020) of whole rooms: a mesh from 10,000 noisy points.

    onet train --config=conv_onet_rooms --workdir=runs/rooms

Published on synthetic rooms of ShapeNet furniture (5 classes):

    variant            IoU    Chamfer-L1 (x10)  normal consistency  F-score (1 %)
    pointconv          0.523  0.165             0.811               0.790    (a baseline: PointNet++)
    maps=xz            0.795  0.047             0.889               0.937
    maps=planes        0.805  0.044             0.903               0.948    (the default)
    maps=grid          0.782  0.047             0.902               0.941
    grid64             0.849  0.042             0.915               0.964
    maps=all           0.816  0.044             0.905               0.952

The embedded dataset consists of procedural rooms of 4 to 8 objects. The variant `tiny` has small networks for two CPU cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

PLANES = ('xz', 'xy', 'yz')
# Variant -> feature maps, and the batch size of full-size networks.
NETWORKS = {
    'maps=xz': (PLANES[:1], 32),
    'maps=planes': (PLANES, 32),
    'maps=grid': (('grid',), 32),
    'maps=all': ((*PLANES, 'grid'), 24),
    'grid64': (('grid',), 6),
    'pointconv': ((), 20),
}
VARIANTS = ('', 'tiny', *NETWORKS, 'tiny,pointconv')


def get_config(arg: str = '') -> ConfigDict:
    tiny, network = choose('conv_onet_rooms', arg, ('tiny',), NETWORKS)
    pointconv, grid64 = network == 'pointconv', network == 'grid64'
    maps, batch_size = NETWORKS[network or 'maps=planes']
    if pointconv:
        model = {
            'name': 'conv_onet',
            'encoder': 'pointnet_plus_plus',
            'decoder': 'simple_local_point',
            'cond_size': 32,
            'encoder_hidden_size': 16 if tiny else 64,
            'decoder_hidden_size': 32 if tiny else 256,
            'num_centres': (128, 32) if tiny else (512, 128),  # groups of points, on two levels
        }
    else:
        model = {
            'name': 'conv_onet',
            'encoder': 'pointnet_local_pool',
            'decoder': 'simple_local',
            'cond_size': 32,  # channels of the feature maps
            'encoder_hidden_size': 32,
            'pooling': 'max',  # 'max' or 'mean' of the points in a cell
            'cell_coordinates': bool(tiny),  # the encoder also sees where in its cell a point lies
            'decoder_hidden_size': 128 if tiny else 32,
            'maps': maps,
            'plane_resolution': 64 if tiny else 128,
            'unet_depth': 4 if tiny else 5,  # levels of the U-Net of planes
            'unet_size': 16 if tiny else 32,  # its channels on the first of them
            'grid_resolution': 64 if grid64 else 32,
            'unet3d_levels': 4 if grid64 else 2 if tiny else 3,
            'unet3d_size': 16 if tiny else 32,
            'interpolation': 'linear',  # sampling of the maps, 'linear' or 'nearest'
            'align_corners': not tiny,  # of this sampling; True, half a cell off, in official networks
        }
    return experiment(
        seed=0,
        model=model,
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('cloud',),
            'targets': ('volume_points',),
            'num_input_points': 10_000,
            'noise_std': 0.005,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False,  # of a user's cloud: its stray points belong to the shape
            'partial': False,  # clouds lack up to 30 % of the room along an axis
            'num_points_per_step': 2048 if not tiny else 256 if pointconv else 512,
            'num_near_points': 0 if not tiny else 208 if pointconv else 416,  # nearest to the surface; 0: as drawn
            'sampling': 'uniform',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': ('rooms_04', 'rooms_05', 'rooms_06', 'rooms_07', 'rooms_08'),
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
        train=train(num_steps=3300, batch_size=8, log_every_steps=50, eval_every_steps=660, checkpoint_every_steps=660)
        if tiny
        else train(batch_size=batch_size),
        eval=eval_(targets=('volume_points',), threshold=0.4) if tiny else eval_(),
        mesh=mesh(),
    )
