"""Texture Fields (Oechsle et al., ICCV 2019): the colour of any point of a shape, from its geometry and one picture.

    onet train --config=texture_field --workdir=runs/texture
    onet evaluate --workdir=runs/texture

The experiments of the paper are variants:

    variant   the colours come from                       learns from
    (view)    one picture                                 other views, L1
    vae       a latent code, whose posterior sees a view  variational autoencoder
    gan       a latent code                               a discriminator of views
    nvs       one picture; a U-Net from depth maps to pictures, the baseline without a field

The variant `tiny` has small networks and goes with all of them, for two CPU cores. It learns one class, as the networks of the
paper do; `--config.data.families=()` is all.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, optim, train

EXPERIMENTS = ('vae', 'gan', 'nvs')
# Variant -> sizes of the codes of appearance and geometry, widths of encoder, decoder, geometry encoder and encoder of views
WIDTHS = {
    '': (512, 512, None, 128, 128, None),
    'vae': (512, 512, None, 128, 128, 32),
    'gan': (64, 512, None, 128, 128, 64),
    'nvs': (512, None, None, 64, None, None),
    'tiny': (128, 128, 16, 128, 64, None),
    'tiny,vae': (64, 128, None, 64, 64, 16),
    'tiny,gan': (64, 128, None, 64, 64, 16),
    'tiny,nvs': (64, None, 16, 16, None, None),
}
VARIANTS = tuple(WIDTHS)


def get_config(arg: str = '') -> ConfigDict:
    tiny, kind = choose('texture_field', arg, ('tiny',), EXPERIMENTS)
    is_latent, baseline = kind in ('vae', 'gan'), kind == 'nvs'
    inputs = [*(() if is_latent else ('image',)), *(() if baseline else ('oriented_cloud',)), 'depth_views']
    samples = tiny and kind in ('', 'vae')  # needs no whole pictures
    code, geometry, encoder, decoder, pointnet, views = WIDTHS[','.join(filter(None, (tiny, kind)))]
    return experiment(
        seed=0,
        model={
            'name': 'texture_field',
            'encoder': 'none' if is_latent else 'simple_conv' if tiny else 'resnet18',
            'decoder': 'unet' if baseline else 'each_layer_c' if is_latent or tiny else 'each_layer_c_larger',
            'geometry_encoder': 'none' if baseline else 'simple' if is_latent else 'resnet',
            'vae_encoder': 'resnet' if kind == 'vae' else 'none',
            'discriminator': 'resnet_conditional' if kind == 'gan' else 'none',
            'cond_size': code,  # of the code of the picture, or of the latent code
            'geometry_size': geometry,  # of the code of the geometry
            'encoder_hidden_size': encoder,
            'decoder_hidden_size': decoder,
            'geometry_hidden_size': pointnet,
            'picture_hidden_size': views,
            # Of a positional encoding of points, with which small networks learn patterns sooner.
            'num_frequencies': None if baseline else 6 if tiny and not is_latent else 0,
            'leaky': None if baseline else True,  # leaky ReLU (slope 0.2) as the last activation of the decoder
            'leaky_blocks': None if baseline else is_latent,  # and in its blocks
            'num_pixels': 128 if samples else 0,  # random ones of the object in the loss; 0 is all of a view
        },
        data={
            'feed': 'resident',  # all in device memory, without TensorFlow
            'inputs': tuple(inputs),
            'targets': ('views',),
            'image_size': None if is_latent else 64 if tiny else 224,  # px, of the picture that is seen
            'augment': None if is_latent else False,  # train on random square crops of it
            'view_size': (32 if kind == 'gan' else 64) if tiny else 256 if baseline else 128,  # px, of the views
            'num_surface_points': None if baseline else 128 if tiny else 2048,  # oriented points of the surface
            'sampling': 'uniform',  # of the dataset's points
            # The embedded dataset, built where no --data_dir is given.
            'families': ('car',) if tiny else (),  # () is all of them
            'num_shapes_per_family': 800 if tiny else 100,
            'num_points': 2048 if tiny else 100_000,
            'num_views': 12 if tiny else 24,
            'coloured': True,  # parts and patterns
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=5e-3, schedule='cosine', warmup_steps=100, ema_decay=0.99)
        if tiny and kind != 'gan'
        else optim(name='rmsprop'),
        # Of a batch of the GAN each of its networks learns from one half.
        train=train(
            num_steps=4000 if samples else 2000,
            batch_size=32,
            log_every_steps=50,
            eval_every_steps=1000,
            checkpoint_every_steps=500,
        )
        if tiny
        else train(batch_size={'': 18, 'vae': 3, 'gan': 64, 'nvs': 32}[kind]),
        eval=eval_(targets=('views',), threshold=None, sample=False if is_latent else None, select_by='l1'),
        mesh={},  # predictions are pictures
    )
