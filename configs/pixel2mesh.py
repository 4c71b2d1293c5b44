"""Pixel2Mesh (Wang et al., ECCV 2018), a baseline of the paper: an ellipsoid that one picture deforms to a mesh.

    onet train --config=pixel2mesh --workdir=runs/pixel2mesh
    onet evaluate --workdir=runs/pixel2mesh
    onet reconstruct --workdir=runs/pixel2mesh --input=photos --output=meshes

Published on ShapeNet (13 classes), in the tables of Occupancy Networks; the meshes are closed and may cut themselves:

    IoU     Chamfer-L1 (x10)   normal consistency
    0.480   0.216              0.772

It needs the camera of a picture. Where `cameras.npz` of the official data is beside a photo, `onet reconstruct` takes it from
there, or else a camera of the training views. The variant `tiny`, a small network, takes about four minutes on two CPU cores.
That is not enough: on the test split of the embedded dataset it reaches IoU 0.14, Chamfer-L1 0.563 and normal consistency
0.58, and all of its meshes cut themselves.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('pixel2mesh', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'pixel2mesh',
            'encoder': 'pixel2mesh_cond',
            'decoder': 'simple',
            'encoder_hidden_size': 8 if tiny else 16,  # features of the first convolution
            'decoder_hidden_size': 32 if tiny else 192,  # features of a graph convolution
            'same_distance': bool(tiny),  # scale the cameras, so that the object is as far away as the ellipsoid
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('image', 'camera'),
            'targets': ('surface_samples',),
            'num_target_points': 1000 if tiny else 8000,  # surface samples of a shape in the loss
            'image_size': 64 if tiny else 224,  # px
            'augment': False,  # crops would need other cameras
            'sampling': 'uniform',  # of the dataset's points
            # The embedded dataset, built where no --data_dir is given.
            'families': (),  # () is all of them
            'num_shapes_per_family': 80 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 24,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=5e-3, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=500, batch_size=8, log_every_steps=50, eval_every_steps=250, checkpoint_every_steps=250)
        if tiny
        else train(batch_size=12),
        eval=eval_(targets=('surface_samples',), threshold=None, sample=None, select_by='chamfer'),
        mesh={},  # predictions are meshes of 2,466 vertices
    )
