"""The weights `scenes`: a sliding-window network that reconstructs scans of any size, in the unit of their files.

    onet train --config=scenes --workdir=runs/scenes
    onet reconstruct --workdir=runs/scenes --input=scan.ply --output=meshes

The network of Peng et al. (ECCV 2020, section 3.4), trained for generality: half of the shapes are rooms, the others random
solids (`prepare/random_solids.py`) and objects. Clouds are as scanners give them, in random poses, with 3,333 to 10,000 points
on a room, noise of up to 1 % of it, some with outliers or without a side (`data/draws.py`, `draw_scan`).

The variant `tiny` is a smaller network on fewer shapes, for a few minutes on two CPU cores. The weights that come with the
package are from the other; their card (onet_jax/weights/scenes) says how long they were trained, and what they reach.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

FAMILIES = (
    'rooms_04', 'rooms_05', 'rooms_06', 'rooms_07', 'rooms_08',
    'chair', 'compositions', 'limbs', 'rods', 'sheets', 'vessels',
)  # fmt: skip
VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('scenes', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'conv_onet',
            'encoder': 'pointnet_crop_local_pool',
            'decoder': 'simple_local_crop',
            'cond_size': 16,
            'encoder_hidden_size': 16 if tiny else 32,
            'decoder_hidden_size': 32,
            'unit_size': 0.025,  # edge of a cell of the feature volume, in units of the longest edge of a room
            'query_cells': 17,  # cells along an edge of the query volume of a window
            'num_queries': 1024,  # query points in the window of a training step
            'unet3d_levels': 2,
            'unet3d_size': 8 if tiny else 16,
            'sin_cos': False,  # positional encoding of the coordinates
            'interpolation': 'linear',  # sampling of the maps, 'linear' or 'nearest'
            'align_corners': False,  # of this sampling; True, half a cell off, in official networks
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': ('scene',),
            'targets': ('volume_points',),
            'num_input_points': 10_000,
            'noise_std': 0.005,  # of the input points (Gaussian) in evaluation, in units of the longest edge
            'keep_outliers': False,  # of a user's cloud: its stray points belong to the shape
            'random_scans': True,  # train on random poses, densities, noise, outliers and missing sides
            'cell_size': 0.025,  # edge to which the cell of a scan is scaled: that of the network
            'scan_cell': 0.0,  # edge of a cell in the unit of a scan; 0 chooses it by the density of the scan
            'num_points_per_step': 16_384,  # of a room, from which a window is cut
            'num_near_points': 0,  # nearest to the surface; 0: as drawn
            'sampling': 'surface',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': FAMILIES,
            'num_shapes_per_family': 20 if tiny else 50,
            'num_points': 16_384,
            'num_views': 0,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=5e-3, schedule='cosine', warmup_steps=100, ema_decay=0.99),
        train=train(
            num_steps=400 if tiny else 2000,
            batch_size=4,
            log_every_steps=20,
            eval_every_steps=250,
            checkpoint_every_steps=50,
        ),
        eval=eval_(batch_size=1, targets=('volume_points',), threshold=0.4),
        mesh={},  # a scene is extracted on the grid of its cells
    )
