"""AtlasNet (Groueix et al., CVPR 2018), a baseline of the paper: the surface as images of 25 squares, or of a sphere.

The network of pictures is trained in three stages: an autoencoder of point clouds, a picture encoder for its decoder, and both:

    onet train --config=atlasnet:points --workdir=runs/atlasnet_points
    onet train --config=atlasnet --config.train.init_from=runs/atlasnet_points --workdir=runs/atlasnet_encoder
    onet train --config=atlasnet:finetune --config.train.init_from=runs/atlasnet_encoder --workdir=runs/atlasnet
    onet evaluate --workdir=runs/atlasnet

The second stage needs the first: its decoder is frozen, but for the running statistics of batch normalisation. To train all at
once, from random weights, take --config.train.frozen='()' and no init_from.

Published on ShapeNet (13 classes), in the tables of Occupancy Networks; the squares do not enclose a volume and have no IoU:

    variant              Chamfer-L1 (x10)  normal consistency
    (images, 3 stages)   0.175             0.811

Published by its authors, in their frame (Chamfer distance, squared, x1000): autoencoder 1.35 with squares or sphere, pictures
3.78 with squares and 3.76 with the sphere.

`squares` (the default) or `sphere` is the template; the sphere gives closed meshes. An epoch of the split of Occupancy Networks
has 958 steps of 32 shapes. The variant `tiny` has small networks and nothing frozen, so that it needs no other stage, and takes
about four minutes on two CPU cores. In three stages of 400 steps each, as long, it reaches Chamfer-L1 0.202 and normal
consistency 0.752 on the test split of the embedded dataset.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

EPOCH = 958  # steps
VARIANTS = (
    '', 'points', 'finetune', 'sphere', 'points,sphere', 'finetune,sphere',
    'tiny', 'tiny,points', 'tiny,finetune', 'tiny,sphere', 'tiny,points,sphere',
)  # fmt: skip


def get_config(arg: str = '') -> ConfigDict:
    tiny, stage, template = choose('atlasnet', arg, ('tiny',), ('points', 'finetune'), ('squares', 'sphere'))
    points, finetune, sphere = stage == 'points', stage == 'finetune', template == 'sphere'
    augment = None if points else not tiny
    num_epochs, decay_epochs = (50, (40,)) if finetune else (150, (120, 140, 145))
    return experiment(
        seed=0,
        model={
            'name': 'atlasnet',
            'encoder': 'atlasnet_pointnet' if points else 'simple_conv' if tiny else 'atlasnet_resnet18',
            'decoder': template or 'squares',  # the template of a patch
            'cond_size': 128 if tiny else 1024,
            'encoder_hidden_size': 32 if tiny and points else 16 if tiny else 64 if points else None,
            'decoder_hidden_size': 64 if tiny else 512,
            'num_patches': 1 if sphere else 25,
            'num_predicted_points': 1000 if tiny else 2500,  # of all patches in a training step, at random
            'num_mesh_points': 2500,  # vertices of all patches: a grid of 10 x 10 each; the sphere has 2562
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('cloud',) if points else ('image',),
            'targets': ('surface_samples',),
            'num_target_points': 1000 if tiny else 2500,  # surface samples of a shape in the loss
            'num_input_points': (500 if tiny else 2500) if points else None,
            'noise_std': 0.0 if points else None,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False if points else None,  # of a user's cloud: its stray points belong to the shape
            'partial': False if points else None,  # clouds lack up to 30 % of the shape along an axis
            'image_size': None if points else 64 if tiny else 224,  # px
            'augment': augment,  # train on random square crops of 75 to 100 % of the area of a view
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
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100)
        if tiny
        else optim(
            learning_rate=1e-4 if finetune else 1e-3,
            schedule='step',
            decay_steps=tuple(EPOCH * epoch for epoch in decay_epochs),
            decay_factor=0.1,
        ),
        train=train(
            num_steps=1500 if tiny else EPOCH * num_epochs,
            batch_size=32,
            log_every_steps=50 if tiny else 10,
            eval_every_steps=500 if tiny else 2000,
            checkpoint_every_steps=500 if tiny else 1000,
            init_modules=() if points else ('encoder', 'decoder') if finetune else ('decoder',),
            frozen=() if tiny or points or finetune else ('decoder',),
        ),
        eval=eval_(targets=('surface_samples',), threshold=None, sample=None, select_by='chamfer'),
        mesh={},  # predictions are surfaces of the template's triangles
    )
