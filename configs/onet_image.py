"""Single image 3D reconstruction (paper, section 4.2): a mesh from one picture of 224 x 224 pixels.

    python -m launch.train --config=configs/onet_image.py --workdir=runs/image
    python -m launch.reconstruct --workdir=runs/image --input=photos --output=meshes

Each training record has one of the 24 views of its shape; the first view is evaluated. Published on ShapeNet (13
classes): IoU 0.571, Chamfer-L1 0.215 (x10), normal consistency 0.834; the weights released later reach 0.593, 0.194
and 0.840. The variants of the ablations are those of configs/onet_points.py; `tiny` has small networks and pictures of 64
pixels, and takes about six minutes on two CPU cores (docs/results/single_image.md has its scores).
"""

from ml_collections import ConfigDict

from configs import choose, onet_points

VARIANTS = ('', *onet_points.SIZES, *onet_points.SAMPLINGS, *onet_points.DECODERS)


def get_config(variant: str = '') -> ConfigDict:
    chosen = choose('onet_image', variant, onet_points.SIZES, onet_points.SAMPLINGS, onet_points.DECODERS)
    config = onet_points.get_config(variant).unlock()
    del config.model.encoder_hidden_size, config.data.num_input_points, config.data.noise_std
    config.data.update(input='image', num_views=24)
    config.data.augment = False  # train on random square crops of 75 to 100 % of the area of a view
    if 'tiny' in chosen:
        config.model.update(encoder='simple_conv', encoder_hidden_size=16)
        config.data.image_size = 64  # px
        config.train.update(num_steps=5000, eval_every_steps=1000)
    else:
        config.model.update(encoder='resnet18', cond_size=256)
        # Weights of a ResNet of torchvision or timm (.pth or .safetensors) to start the encoder from; '' is from scratch.
        config.model.encoder_init = ''
        config.data.image_size = 224  # px
        config.train.update(eval_every_steps=20_000)
    return config.lock()
