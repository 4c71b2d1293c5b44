"""The weights `objects`: a feature volume that reconstructs a point cloud of any object, in any pose.

    onet train --config=objects --workdir=runs/objects
    onet reconstruct --workdir=runs/objects --input=scan.ply --output=meshes

A network of Convolutional Occupancy Networks (Peng et al., ECCV 2020), trained for generality rather than on categories: beside
the embedded objects half of the shapes are random solids (`prepare/random_solids.py`), and clouds are as scanners give them, in
random poses, with 100 to 10,000 points, noise of up to 2 %, some with outliers or without a side (`draws.draw_scan`).

A feature volume learns from few shapes what feature planes need many for: each of its cells sees a piece of surface, whatever
the shape. The four levels of its U-Net see the whole cube, so that they know which side of a surface is inside. No weight
depends on the number of cells: most of the training may have fewer (--config.model.grid_resolution=32), and the rest all
(--accept_changes).

The variant `tiny` is a smaller network on fewer shapes, for a few minutes on two CPU cores. The weights that come with the
package are from the other; their card (onet_jax/weights/objects) says how long they were trained, and what they reach.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

FAMILIES = (
    'airplane', 'bench', 'bottle', 'car', 'chair', 'lamp', 'mug', 'shelf', 'sofa', 'table',
    'blobs', 'compositions', 'cut_compositions', 'limbs', 'rods', 'sheets', 'shells', 'tubes', 'vessels',
)  # fmt: skip
VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('objects', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'conv_onet',
            'encoder': 'pointnet_local_pool',
            'decoder': 'simple_local',
            'cond_size': 16 if tiny else 32,  # channels of the feature volume
            'encoder_hidden_size': 16 if tiny else 32,
            'pooling': 'max',  # 'max' or 'mean' of the points in a cell
            'cell_coordinates': True,  # the encoder also sees where in its cell a point lies
            'decoder_hidden_size': 32 if tiny else 64,
            'maps': ('grid',),
            'grid_resolution': 24 if tiny else 48,  # cells along an edge of the volume
            'unet3d_levels': 4,  # of the U-Net of the volume
            'unet3d_size': 8 if tiny else 16,  # its channels on the first of them
            'interpolation': 'linear',  # sampling of the maps, 'linear' or 'nearest'
            'align_corners': False,  # of this sampling; True, half a cell off, in official networks
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': ('cloud',),
            'targets': ('volume_points',),
            'num_input_points': 10_000,
            'noise_std': 0.005,  # of the input points (Gaussian) in evaluation, in units of the longest edge
            'keep_outliers': False,  # of a user's cloud: its stray points belong to the shape
            'partial': False,  # clouds lack up to 30 % of the shape along an axis
            'random_scans': True,  # train on random poses, densities, noise, outliers and missing sides
            'num_points_per_step': 4096,  # a pass through the U-Net costs more than its points
            'num_near_points': 0,  # nearest to the surface; 0: as drawn
            'sampling': 'surface',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': FAMILIES,
            'num_shapes_per_family': 40 if tiny else 160,
            'num_points': 16_384,
            'num_views': 0,
            'val_fraction': 0.05,
            'test_fraction': 0.05,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=2e-3, schedule='cosine', warmup_steps=100, ema_decay=0.998),
        train=train(
            num_steps=500 if tiny else 2400,
            batch_size=4,
            log_every_steps=20,
            eval_every_steps=400,
            checkpoint_every_steps=100,
        ),
        eval=eval_(targets=('volume_points',), threshold=0.4),
        mesh=mesh(),
    )
