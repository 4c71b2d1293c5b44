"""Voxel super-resolution (paper, section 4.4): a mesh from 32^3 voxels.

    onet train --config=onet_voxels --workdir=runs/voxels

Published on ShapeNet (13 classes): IoU 0.703, Chamfer-L1 0.109 (x10), normal consistency 0.879. The variant `tiny` has
small networks and takes about eight minutes on two CPU cores (docs/results/super_resolution.md has its scores).
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('onet_voxels', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'onet',
            'encoder': 'voxel_simple',
            'decoder': 'cbatchnorm',
            'cond_size': 128 if tiny else 256,
            'encoder_hidden_size': 8 if tiny else 32,
            'decoder_hidden_size': 64 if tiny else 256,
            'latent_size': 0,  # of the VAE; 0 is none
            'free_bits': 0.0,  # nats of KL divergence that each latent dimension has free; 0 is off
            'leaky': False,  # leaky ReLUs in the decoder and in the encoder of the VAE
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('voxels',),
            'targets': ('volume_points',),
            'num_points_per_step': 256 if tiny else 1024,
            'num_near_points': 208 if tiny else 0,  # nearest to the surface; 0: as drawn
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
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=1500, batch_size=32, log_every_steps=50, eval_every_steps=250, checkpoint_every_steps=350)
        if tiny
        else train(),
        eval=eval_(targets=('volume_points',), threshold=0.4) if tiny else eval_(),
        mesh=mesh(),
    )
