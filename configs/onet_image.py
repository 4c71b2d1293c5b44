"""Single image 3D reconstruction (paper, section 4.2): a mesh from one picture of 224 x 224 pixels.

    python -m launch.train --config=configs/onet_image.py --workdir=runs/image
    python -m launch.reconstruct --workdir=runs/image --input=photos --output=meshes

Each training record has one of the 24 views of its shape; the first view is evaluated. Published on ShapeNet (13
classes): IoU 0.571, Chamfer-L1 0.215 (x10), normal consistency 0.834; the weights released later reach 0.593, 0.194
and 0.840.
"""

from ml_collections import ConfigDict

from configs import onet_points

VARIANTS = ('',)


def get_config(variant: str = '') -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f'configs/onet_image.py: expected a variant of {VARIANTS}, found {variant!r}')
    config = onet_points.get_config().unlock()
    del config.model.encoder_hidden_size, config.data.num_input_points, config.data.noise_std
    config.model.update(encoder='resnet18', cond_size=256)
    # Weights of a ResNet of torchvision or timm (.pth or .safetensors) to start the encoder from; '' starts from scratch.
    config.model.encoder_init = ''
    config.data.update(input='image')
    config.data.image_size = 224  # px
    config.data.num_views = 24
    config.train.update(eval_every_steps=20_000)
    return config.lock()
