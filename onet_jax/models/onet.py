"""Occupancy Networks (Mescheder et al., CVPR 2019): a code for the whole shape steers the network of its points."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.models.occupancy import Encoder, OccupancyModule
from onet_jax.networks.decoders import DECODERS, Decoder
from onet_jax.networks.encoders.image import STAGES, ConvEncoder, ResNet
from onet_jax.networks.encoders.latent import IndexEmbedding, LatentEncoder
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.voxels import VoxelEncoder

# By their official names.
ENCODERS = {
    'none': Encoder('none', lambda c, dtype: None),
    'pointnet_resnet': Encoder('points', lambda c, dtype: Pointnet(c.cond_size, c.encoder_hidden_size, dtype=dtype)),
    'pointnet_simple': Encoder('points', lambda c, dtype: Pointnet(c.cond_size, c.encoder_hidden_size, False, dtype)),
    'simple_conv': Encoder('image', lambda c, dtype: ConvEncoder(c.cond_size, c.get('encoder_hidden_size', 32), dtype)),
    **{f'resnet{n}': Encoder('image', lambda c, dtype, n=n: ResNet(c.cond_size, n, dtype)) for n in STAGES},
    'voxel_simple': Encoder(
        'voxels', lambda c, dtype: VoxelEncoder(c.cond_size, c.get('encoder_hidden_size', 32), dtype)
    ),
    'idx': Encoder('index', lambda c, dtype: IndexEmbedding(c.cond_size, c.num_shapes, c.get('code_std', 1.0))),
}


def build_module(config: ConfigDict, dtype: jnp.dtype | None = None) -> OccupancyModule:
    """The network of `config.model`.

    `encoder` and `decoder` are official names; `cond_size`, `latent_size`, `decoder_hidden_size` and, of the encoders of points
    and voxels and of `simple_conv`, `encoder_hidden_size` are widths. `num_shapes` is the number of codes of the encoder
    `idx`, `code_std` their spread at first. `leaky` is an option of the decoder and of the latent encoder, `free_nats` of the
    loss of latent codes (see `OccupancyModule`).
    dtype: of features and their products, None for that of the inputs; all else, from parameters to logits, stays as it is.
    """
    for key, known in (('encoder', ENCODERS), ('decoder', DECODERS)):
        if config[key] not in known:
            raise InputError(f'config.model.{key}: expected one of {sorted(known)}, found {config[key]!r}')
    latent_size, options = config.latent_size, {'leaky': config.leaky, 'dtype': dtype}
    return OccupancyModule(
        decoder=Decoder(config.decoder_hidden_size, latent_size, **options, **DECODERS[config.decoder]),
        encoder=ENCODERS[config.encoder].build(config, dtype),
        encoder_latent=LatentEncoder(latent_size, **options) if latent_size else None,
        free_nats=config.get('free_nats', 0.0),
    )
