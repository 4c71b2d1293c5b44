"""Tables of the official names of weights, where those differ from the names of the modules here."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from onet_jax.errors import InputError


class Layout(NamedTuple):
    """How the official code names the weights of a module and stores its linear layers. Patterns are regular expressions."""

    linear: str = '.*'  # our names of the layers that are linear there too; the others are convolutions of width 1
    renames: tuple[tuple[str, str], ...] = ()  # (pattern, replacement) of the path below the module
    square: str = ''  # official names of the layers that are convolutions of 1 x 1
    stacked: str = ''  # our name of several layers whose weights are stacked on a first axis; there they have numbers
    module: str = ''  # official name of the module; '' is ours


PLAIN, POINTWISE = Layout(), Layout(linear='fc_z|fc_c')
RESNET = Layout(renames=((r'layer(\d)_(\d+)\.', r'layer\1.\2.'), (r'downsample_(\d)\.', r'downsample.\1.')))
LOCAL = Layout(
    renames=(
        (r'^maps\.', ''),
        (r'(blocks|fc_c)_(\d)\.', r'\1.\2.'),
        (r'(down_convs|up_convs)_(\d)_', r'\1.\2.'),
        (r'(encoders|decoders)_(\d)_(SingleConv\d)_', r'\1.\2.basic_module.\3.'),
    )
)
POINTNET_PLUS = Layout(linear='', renames=((r'(mlp_convs|mlp_bns)_(\d)\.', r'\1.\2.'),), square=r'sa\d\..*')
R2N2 = Layout(renames=((r'convnet_(\d+)\.', r'convnet.\1.'),))
DMC = Layout(linear='', renames=((r'^conv1_0\.', 'conv1.0.'),))
PSGN = Layout(renames=((r'(fc_branch|conv_\d|conv_block\d)_(\d)\.', r'\1.\2.'),))
ATLASNET_CLOUDS, ATLASNET_IMAGES = (
    Layout(linear=r'lin\d'),
    RESNET._replace(renames=((r'^features\.', ''), *RESNET.renames)),
)
ATLASNET = Layout(linear='', renames=((r'(conv|bn)_list_(\d)\.', r'\1_list.\2.'),), stacked='decoder')

PIXEL2MESH = Layout(
    renames=((r'^(block_\d)_(\d+)\.', r'\1.\2.'), (r'^(gc[147])\.', r'\1.0.'), (r'^(gc[258])_(\d+)\.', r'\1.\2.0.'))
)

# Of Occupancy Flow: the velocity field and the latent encoders.
LISTS = Layout(renames=((r'^block_(\d+)\.', r'blocks.\1.'), (r'^(fc_c|fc_z|c_layers)_(\d+)\.', r'\1.\2.')))

NERF = Layout(renames=((r'^(pts|views)_linears_(\d+)\.', r'\1_linears.\2.'),))
# Of Texture Fields: the decoder, the encoders of geometry, the encoder of pictures and the discriminator.
TEXTURE = Layout(linear=r'fc_cz_\d', renames=((r'^(block\d)\.fc_', r'\1.conv_'),))
GEOMETRY = {
    'resnet': POINTWISE,
    'simple': Layout(linear='fc_c', renames=((r'^fc_pos\.', 'conv_p.'), (r'^fc_(\d)\.', r'conv_\1.'))),
}
PICTURES = Layout(renames=((r'^resnet_(\d+)\.', r'resnet.\1.'),))


class Family(NamedTuple):
    """The modules of a repository by their official names; one that is not listed is `PLAIN`."""

    decoders: Mapping[str, Layout] = {}
    encoders: Mapping[str, Layout] = {}


ONET_ENCODERS = {f'resnet{depth}': RESNET for depth in (18, 34, 50, 101)}
TEMPORAL_ENCODERS = dict.fromkeys(('pointnet_resnet', 'pointnet_2stream', 'conv_3D'), Layout(module='encoder_temporal'))
FAMILIES = {
    'onet': Family(
        {
            **dict.fromkeys(('cbatchnorm', 'cbatchnorm_noresnet', 'batchnorm'), POINTWISE),
            'cbatchnorm2': POINTWISE._replace(
                renames=((r'^fc_p\.', 'conv_p.'), (r'^fc_out\.', 'conv_out.'), (r'^block(\d)\.', r'blocks.\1.'))
            ),
        },
        ONET_ENCODERS,
    ),
    'conv_onet': Family(
        dict.fromkeys(('simple_local', 'simple_local_point', 'simple_local_crop'), LOCAL),
        {
            **dict.fromkeys(('pointnet_local_pool', 'voxel_simple_local', 'pointnet_crop_local_pool'), LOCAL),
            'pointnet_plus_plus': POINTNET_PLUS,
        },
    ),
    'r2n2': Family({}, ONET_ENCODERS | dict.fromkeys(('r2n2_simple', 'r2n2_resnet'), R2N2)),
    'dmc': Family({}, {'pointnet_local': DMC}),
    'pixel2mesh': Family({'simple': PIXEL2MESH}, {'pixel2mesh_cond': PIXEL2MESH}),
    'psgn': Family({'psgn_2branch': PSGN}, ONET_ENCODERS | {'psgn_cond': PSGN}),
    'occupancy_flow': Family({'cbatchnorm': POINTWISE}, ONET_ENCODERS),
    'onet4d': Family({'cbatchnorm': POINTWISE}, TEMPORAL_ENCODERS),
    'psgn4d': Family(),
    'nerf': Family(),
    'texture_field': Family(dict.fromkeys(('each_layer_c', 'each_layer_c_larger'), TEXTURE), ONET_ENCODERS),
    'atlasnet': Family(
        dict.fromkeys(('squares', 'sphere'), ATLASNET),
        ONET_ENCODERS | {'atlasnet_pointnet': ATLASNET_CLOUDS, 'atlasnet_resnet18': ATLASNET_IMAGES},
    ),
}


def layouts_of(config: ConfigDict, legacy: bool) -> dict[str, Layout]:
    """The layout of each module of the network of a config. Raises InputError for a network that the official code lacks."""
    for key, official in (('align_corners', True), ('cell_coordinates', False)):
        if config.model.get(key, official) != official:
            raise InputError(f'config.model.{key}: expected {official}, as in official networks, found {not official}')
    family = FAMILIES[config.model.name]
    decoder = family.decoders.get(config.model.get('decoder'), PLAIN)
    return {
        'decoder': legacy_layout(decoder) if legacy else decoder,
        'encoder': family.encoders.get(config.model.get('encoder'), PLAIN),
        'encoder_temporal': PLAIN,
        'geometry_encoder': GEOMETRY.get(config.model.get('geometry_encoder'), PLAIN),
        'vae_encoder': PICTURES,
        'discriminator': PICTURES,
        'encoder_latent': LISTS,
        'encoder_latent_temporal': LISTS,
        'vector_field': LISTS,
        'coarse': NERF,
        'fine': NERF,
    }


def is_legacy(names: Iterable[str]) -> bool:
    """Whether the weights have the older names of conditional batch normalisation."""
    return any(name.endswith('.fc_gamma.weight') for name in names)


def legacy_layout(layout: Layout) -> Layout:
    """The older layout of conditional batch normalisation (official option `legacy`): linear layers with other names."""
    return Layout(f'{layout.linear}|conv_gamma|conv_beta', (*layout.renames, (r'conv_(gamma|beta)\.', r'fc_\1.')))
