"""Single image 3D reconstruction (paper, section 4.2): a mesh from one picture of 224 x 224 pixels.

    onet train --config=onet_image --workdir=runs/image
    onet reconstruct --workdir=runs/image --input=photos --output=meshes

Each training record has one of the 24 views of its shape; the first view is evaluated. Published on ShapeNet (13
classes): IoU 0.571, Chamfer-L1 0.215 (x10), normal consistency 0.834; the weights released later reach 0.593, 0.194
and 0.840. The variants of the ablations are those of configs/onet_points.py; `tiny` has small networks and pictures of 64
pixels, and takes about six minutes on two CPU cores (docs/results/single_image.md has its scores).
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

SAMPLINGS = ('sampling=uniform', 'sampling=uniform64', 'sampling=equal', 'sampling=surface')
DECODERS = {'noresnet': 'cbatchnorm_noresnet', 'nocbn': 'batchnorm'}
VARIANTS = ('', 'tiny', *SAMPLINGS, *DECODERS)


def get_config(arg: str = '') -> ConfigDict:
    tiny, sampling, decoder = choose('onet_image', arg, ('tiny',), SAMPLINGS, DECODERS)
    return experiment(
        seed=0,
        model={
            'name': 'onet',
            'encoder': 'simple_conv' if tiny else 'resnet18',
            'decoder': DECODERS.get(decoder, 'cbatchnorm'),
            'cond_size': 128 if tiny else 256,
            'encoder_hidden_size': 16 if tiny else None,
            'decoder_hidden_size': 64 if tiny else 256,
            'latent_size': 0,  # of the VAE; 0 is none
            'free_bits': 0.0,  # nats of KL divergence that each latent dimension has free; 0 is off
            'leaky': False,  # leaky ReLUs in the decoder and in the encoder of the VAE
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('image',),
            'targets': ('volume_points',),
            'image_size': 64 if tiny else 224,  # px
            'augment': False,  # train on random square crops of 75 to 100 % of the area of a view
            'num_points_per_step': 64 if sampling == 'sampling=uniform64' else 256 if tiny else 2048,
            'num_near_points': 208 if tiny and not sampling else 0,  # nearest to the surface; 0: as drawn
            'sampling': sampling.removeprefix('sampling=').removesuffix('64') or 'uniform',  # of the dataset's points
            # The embedded dataset, built where no --data_dir is given.
            'families': (),  # () is all of them
            'num_shapes_per_family': 80 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 24,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(
            num_steps=5000, batch_size=32, log_every_steps=50, eval_every_steps=1000, checkpoint_every_steps=350
        )
        if tiny
        else train(eval_every_steps=20_000),
        eval=eval_(targets=('volume_points',), threshold=0.4) if tiny else eval_(),
        mesh=mesh(),
    )
