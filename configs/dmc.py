"""Deep Marching Cubes (Liao et al., CVPR 2018), a baseline of the paper: a mesh of 32^3 cells from 300 points.

    onet train --config=dmc --workdir=runs/dmc
    onet evaluate --workdir=runs/dmc

Published on ShapeNet (13 classes), in the table of point cloud completion of Occupancy Networks:

    IoU    Chamfer-L1 (x10)  normal consistency
    0.674  0.117             0.848

It is trained with points of the surface alone. The variant `tiny`, a small network with 16^3 cells, takes about four minutes on
two CPU cores; on the test split of the embedded dataset it reaches IoU 0.49, Chamfer-L1 0.208 and normal consistency 0.78.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('dmc', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'dmc',
            'encoder': 'pointnet_local',
            'decoder': 'unet',
            'cond_size': 16,  # features of a cell
            'encoder_hidden_size': 64 if tiny else 256,
            'grid_resolution': 16 if tiny else 32,  # cells along an axis
            'unet_size': 8 if tiny else 16,  # features of the U-Net at its finest level
            'weight_prior': 5.0,  # of the term of the loss that knows the occupancy of the boundary
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('cloud',),
            'targets': ('surface_samples',),
            'num_target_points': 1024 if tiny else 3000,  # surface samples of a shape in the loss
            'num_input_points': 300,
            'noise_std': 0.005,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False,  # of a user's cloud: its stray points belong to the shape
            'partial': False,  # clouds lack up to 30 % of the shape along an axis
            'sampling': 'uniform',  # of the dataset's points
            # The embedded dataset, built where no --data_dir is given.
            'families': (),  # () is all of them
            'num_shapes_per_family': 80 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 0,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=400, batch_size=8, log_every_steps=50, eval_every_steps=200, checkpoint_every_steps=200)
        if tiny
        else train(batch_size=8, checkpoint_every_steps=500),
        eval=eval_(targets=('surface_samples',), threshold=None, sample=None, select_by='loss'),
        mesh={},  # the surface comes from the network alone
    )
