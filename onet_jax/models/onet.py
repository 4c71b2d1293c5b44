"""Occupancy Networks (Mescheder et al., CVPR 2019): a code for the whole shape steers the network of its points."""

from ml_collections import ConfigDict

from onet_jax.models.occupancy import Encoder, OccupancyModule
from onet_jax.networks.decoders import DECODERS, Decoder
from onet_jax.networks.encoders.image import STAGES, ConvEncoder, ResNet
from onet_jax.networks.encoders.latent import IndexEmbedding, LatentEncoder
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.voxels import VoxelEncoder

# By their official names.
ENCODERS = {
    'none': Encoder('none', lambda c: None),
    'pointnet_resnet': Encoder('points', lambda c: Pointnet(c.cond_size, c.encoder_hidden_size)),
    'pointnet_simple': Encoder('points', lambda c: Pointnet(c.cond_size, c.encoder_hidden_size, residual=False)),
    'simple_conv': Encoder('image', lambda c: ConvEncoder(c.cond_size, c.get('encoder_hidden_size', 32))),
    **{f'resnet{n}': Encoder('image', lambda c, n=n: ResNet(c.cond_size, n)) for n in STAGES},
    'voxel_simple': Encoder('voxels', lambda c: VoxelEncoder(c.cond_size, c.get('encoder_hidden_size', 32))),
    'idx': Encoder('index', lambda c: IndexEmbedding(c.cond_size, c.num_shapes, c.get('code_std', 1.0))),
}


def build_module(config: ConfigDict) -> OccupancyModule:
    """The network of `config.model`.

    `encoder` and `decoder` are official names; `cond_size`, `latent_size`, `decoder_hidden_size` and, of the encoders of points
    and voxels and of `simple_conv`, `encoder_hidden_size` are widths. `num_shapes` is the number of codes of the encoder
    `idx`, `code_std` their spread at first. `leaky` is an option of the decoder and of the latent encoder, `free_nats` of the
    loss of latent codes (see `OccupancyModule`).
    """
    for key, known in (('encoder', ENCODERS), ('decoder', DECODERS)):
        if config[key] not in known:
            raise ValueError(f'config.model.{key}: expected one of {sorted(known)}, found {config[key]!r}')
    latent_size = config.latent_size
    return OccupancyModule(
        decoder=Decoder(config.decoder_hidden_size, latent_size, leaky=config.leaky, **DECODERS[config.decoder]),
        encoder=ENCODERS[config.encoder].build(config),
        encoder_latent=LatentEncoder(latent_size, leaky=config.leaky) if latent_size else None,
        free_nats=config.get('free_nats', 0.0),
    )
