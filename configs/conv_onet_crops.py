"""The sliding-window network of Convolutional Occupancy Networks (Peng et al., ECCV 2020), for scenes of any size.

    onet train --config=conv_onet_crops --workdir=runs/crops
    onet reconstruct --workdir=runs/crops --input=scans --output=meshes

It learns from random windows of rooms of 10,000 noisy points each, and reconstructs point clouds in the units of their files.

The embedded dataset consists of procedural rooms of 4 to 8 objects. The variant `tiny` takes 700 steps, eleven minutes of
two free CPU cores (docs/results/rooms.md has its scores).
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('conv_onet_crops', arg, ('tiny',))
    cell_size = 0.025 if tiny else 0.005
    return experiment(
        seed=0,
        model={
            'name': 'conv_onet',
            'encoder': 'pointnet_crop_local_pool',
            'decoder': 'simple_local_crop',
            'cond_size': 16 if tiny else 32,
            'encoder_hidden_size': 16 if tiny else 32,
            'decoder_hidden_size': 32,
            'unit_size': cell_size,  # edge of a cell of the feature volume, in units of the longest edge of a room
            'query_cells': 17 if tiny else 25,  # cells along an edge of the query volume of a window
            'num_queries': 256 if tiny else 1024,  # query points in the window of a training step
            'unet3d_levels': 2 if tiny else 4,
            'unet3d_size': 8 if tiny else 32,
            'sin_cos': False,  # positional encoding of the coordinates
            'interpolation': 'linear',  # sampling of the maps, 'linear' or 'nearest'
            'align_corners': not tiny,  # of this sampling; True, half a cell off, in official networks
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': ('scene',),
            'targets': ('volume_points',),
            'num_input_points': 10_000,
            'noise_std': 0.005,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False,  # of a user's cloud: its stray points belong to the shape
            'cell_size': cell_size,  # edge to which the cell of a scan is scaled: that of the network
            'scan_cell': 0.0,  # edge of a cell in the unit of a scan; 0 chooses it by the density of the scan
            'num_points_per_step': 16_384 if tiny else 98_304,  # of a room, from which a window is cut
            'num_near_points': 0,  # nearest to the surface; 0: as drawn
            'sampling': 'surface',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': ('rooms_04', 'rooms_05', 'rooms_06', 'rooms_07', 'rooms_08'),
            'num_shapes_per_family': 40 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 0,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=5e-3, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=700, batch_size=4, log_every_steps=20, eval_every_steps=175, checkpoint_every_steps=175)
        if tiny
        else train(batch_size=2),
        eval=eval_(
            batch_size=1,
            targets=('volume_points',) if tiny else ('volume_points', 'voxels'),
            threshold=0.4 if tiny else 0.2,
        ),
        mesh={},  # a scene is extracted on the grid of its cells
    )
