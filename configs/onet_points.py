"""Point cloud completion (paper, section 4.3): a mesh from 300 noisy points.

    python -m launch.train --config=configs/onet_points.py --workdir=runs/points

Published on ShapeNet (13 classes): IoU 0.778, Chamfer-L1 0.079 (x10), normal consistency 0.895, after 2.9 million steps.
The variant `tiny` learns the embedded dataset in about two and a half minutes on two CPU cores; `launch.demo` shows it beside
`conv_onet.py:tiny`:

    python -m launch.train --config=configs/onet_points.py:tiny --workdir=runs/tiny

From 3,000 points (`points=3000`) Peng et al. (ECCV 2020) report IoU 0.761, Chamfer-L1 0.087, normal consistency 0.891.
The other variants are the paper's ablations (section 4.6), and combine with `tiny`: how training points are drawn
(`uniform`, 64 of them, as many inside as outside, or half of them near the surface) and a decoder without residual blocks
or without conditional batch normalisation.
"""

from ml_collections import ConfigDict

from configs import choose

SIZES = ('tiny',)
DENSITIES = ('points=300', 'points=3000')
SAMPLINGS = ('sampling=uniform', 'sampling=uniform64', 'sampling=equal', 'sampling=surface')
DECODERS = ('noresnet', 'nocbn')
VARIANTS = ('', *SIZES, *DENSITIES, *SAMPLINGS, *DECODERS)


def get_config(variant: str = '') -> ConfigDict:
    chosen = choose('onet_points', variant, SIZES, DENSITIES, SAMPLINGS, DECODERS)
    config = ConfigDict(
        {
            'seed': 0,
            'model': {
                'name': 'onet',
                'encoder': 'pointnet_resnet',
                'encoder_hidden_size': 512,
                'cond_size': 512,
                'latent_size': 0,  # of the VAE; 0 is none
                'decoder': 'cbatchnorm',
                'decoder_hidden_size': 256,
                'leaky': False,
            },
            'data': {
                'feed': 'tfds',  # or 'resident': the whole dataset in device memory, without TensorFlow
                'input': 'points',
                'num_input_points': 300,
                'noise_std': 0.005,
                'num_points_per_step': 2048,
                'num_near_points': 0,  # of them the nearest to the surface; 0 takes what `sampling` drew as it is
                'sampling': 'uniform',  # 'equal' or 'surface': how the dataset's training points were drawn
                # The embedded dataset, built where no --data_dir is given.
                'families': (),  # all of them
                'num_shapes_per_family': 100,
                'num_points': 100_000,
                'num_views': 0,
                'val_fraction': 0.1,
                'test_fraction': 0.1,
                'dataset_seed': 0,
            },
            'optim': {
                'name': 'adam',  # or 'muon'
                'learning_rate': 1e-4,
                'schedule': 'constant',  # or 'cosine', 'step', 'exponential': after the warm-up
                'warmup_steps': 0,
                'decay_steps': 100_000,  # of 'step' and 'exponential': the time in which
                'decay_factor': 0.3,  # the learning rate becomes this share of itself
                'clip_norm': 0.0,  # of the gradient of all weights; 0 is off
                'accumulate_steps': 1,  # batches whose mean gradient makes one update
                'ema_decay': 0.0,  # a step of the average of the weights that is validated and used; 0 is off
            },
            'train': {
                'num_steps': 300_000,
                'batch_size': 64,
                'backend': 'pmap',
                'dtype': 'float32',  # or 'bfloat16' for features and products; weights, statistics and loss stay float32
                'log_every_steps': 10,
                'eval_every_steps': 2000,
                'checkpoint_every_steps': 1000,
            },
            'eval': {
                'batch_size': 10,
                'split': 'val',  # what is validated on
                'threshold': 0.2,
                'sample': False,  # latent codes: samples of the prior, or its mean
                'voxel_iou': True,  # also the IoU with the 32^3 voxels in validation
                'select_by': 'iou',  # or 'loss': what makes a checkpoint the best one
                'render_every_steps': 0,  # pictures of reconstructions, in WORKDIR/images and TensorBoard; 0 is never
            },
            'mesh': {'resolution': 32, 'upsampling_steps': 2},
        }
    )
    if 'tiny' in chosen:
        config.model.update(encoder_hidden_size=48, cond_size=128, decoder_hidden_size=64)
        config.data.update(feed='resident', num_points_per_step=256, num_near_points=208)
        config.data.update(num_shapes_per_family=80, num_points=16_384)
        config.optim.update(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100)
        config.train.update(num_steps=1750, batch_size=32, log_every_steps=50, eval_every_steps=350)
        config.train.update(checkpoint_every_steps=350)
        config.eval.update(threshold=0.4, voxel_iou=False)
    for word in chosen & set(DENSITIES):
        config.data.num_input_points = int(word.removeprefix('points='))
    if {'tiny', 'points=3000'} <= chosen:
        config.train.update(num_steps=1900, eval_every_steps=190, checkpoint_every_steps=190)  # ten minutes
    for word in chosen & set(SAMPLINGS):
        config.data.update(num_near_points=0, sampling=word.removeprefix('sampling=').removesuffix('64'))
    if 'sampling=uniform64' in chosen:
        config.data.num_points_per_step = 64
    if 'noresnet' in chosen:
        config.model.decoder = 'cbatchnorm_noresnet'
    if 'nocbn' in chosen:
        config.model.decoder = 'batchnorm'
    return config.lock()
