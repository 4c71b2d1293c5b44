"""Point cloud completion (paper, section 4.3): a mesh from 300 noisy points.

    onet train --config=onet_points --workdir=runs/points

Published on ShapeNet (13 classes): IoU 0.778, Chamfer-L1 0.079 (x10), normal consistency 0.895, after 2.9 million steps.
The variant `tiny` learns the embedded dataset in about two and a half minutes on two CPU cores, from 3,000 points in ten;
`onet demo` shows it beside `conv_onet.py:tiny`:

    onet train --config=onet_points:tiny --workdir=runs/tiny

From 3,000 points (`points=3000`) Peng et al. (ECCV 2020) report IoU 0.761, Chamfer-L1 0.087, normal consistency 0.891.
The other variants are the paper's ablations (section 4.6), and combine with `tiny`: how training points are drawn
(`uniform`, 64 of them, as many inside as outside, or half of them near the surface) and a decoder without residual blocks
(`noresnet`) or without conditional batch normalisation (`nocbn`).
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

POINTS = {'points=300': 300, 'points=3000': 3000}
SAMPLINGS = ('sampling=uniform', 'sampling=uniform64', 'sampling=equal', 'sampling=surface')
DECODERS = {'noresnet': 'cbatchnorm_noresnet', 'nocbn': 'batchnorm'}
VARIANTS = ('', 'tiny', *POINTS, *SAMPLINGS, *DECODERS, 'tiny,points=3000')


def get_config(arg: str = '') -> ConfigDict:
    tiny, points, sampling, decoder = choose('onet_points', arg, ('tiny',), POINTS, SAMPLINGS, DECODERS)
    dense = points == 'points=3000'
    return experiment(
        seed=0,
        model={
            'name': 'onet',
            'encoder': 'pointnet_resnet',
            'decoder': DECODERS.get(decoder, 'cbatchnorm'),
            'cond_size': 128 if tiny else 512,
            'encoder_hidden_size': 48 if tiny else 512,
            'decoder_hidden_size': 64 if tiny else 256,
            'latent_size': 0,  # of the VAE; 0 is none
            'free_bits': 0.0,  # nats of KL divergence that each latent dimension has free; 0 is off
            'leaky': False,  # leaky ReLUs in the decoder and in the encoder of the VAE
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('cloud',),
            'targets': ('volume_points',),
            'num_input_points': POINTS.get(points, 300),
            'noise_std': 0.005,  # of the input points (Gaussian), in units of the longest edge
            'keep_outliers': False,  # of a user's cloud: its stray points belong to the shape
            'partial': False,  # clouds lack up to 30 % of the shape along an axis
            'num_points_per_step': 64 if sampling == 'sampling=uniform64' else 256 if tiny else 2048,
            'num_near_points': 208 if tiny and not sampling else 0,  # nearest to the surface; 0: as drawn
            'sampling': sampling.removeprefix('sampling=').removesuffix('64') or 'uniform',  # of the dataset's points
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
        train=train(
            num_steps=1900 if dense else 1750,
            batch_size=32,
            log_every_steps=50,
            eval_every_steps=190 if dense else 350,
            checkpoint_every_steps=190 if dense else 350,
        )
        if tiny
        else train(),
        eval=eval_(targets=('volume_points',), threshold=0.4) if tiny else eval_(),
        mesh=mesh(),
    )
