"""Every network against the outputs of the official implementation (see tests/golden/README.md)."""

from fnmatch import filter as filter_names
from fnmatch import fnmatch
from pathlib import Path

import jax
import numpy as np
import pytest
from parity import (
    atlasnet,
    baselines,
    conv_onet,
    dmc,
    flow,
    modules,
    nerf,
    occupancy_flow,
    onet,
    pixel2mesh,
    texture_field,
)
from parity.deviation import Deviations
from parity.golden import SHARED, golden_names, read_golden

from onet_jax.networks.fast_gradients import reverse_mode

ATLASNET, DMC, NERF = (f'nerf_atlasnet_dmc/{family}' for family in ('atlasnet', 'dmc', 'nerf'))
TEXTURE = 'flow/texture'
COMPARISONS = {
    'layers/*': modules.layer_deviations,
    'decoders/*': modules.decoder_deviations,
    'encoders/*': modules.encoder_deviations,
    'onet/*': onet.model_deviations,
    'trained/*': modules.trained_deviations,
    'checkpoints/*': onet.checkpoint_deviations,
    **{f'conv/conv_onet/{k}_*': conv_onet.conv_deviations for k in ('unet', 'unet3d', 'enc', 'dec', 'model')},
    'conv/r2n2/enc_*': baselines.encoder_deviations,
    'conv/r2n2/model_*': baselines.model_deviations,
    'conv/psgn/model_*': baselines.model_deviations,
    f'{ATLASNET}/templates*': atlasnet.template_deviations,
    f'{ATLASNET}/ae_*': atlasnet.model_deviations,
    f'{ATLASNET}/decoder_*': atlasnet.decoder_deviations,
    f'{ATLASNET}/svr_*': atlasnet.encoder_deviations,
    f'{ATLASNET}/chamfer_*': atlasnet.chamfer_deviations,
    f'{ATLASNET}/normalization*': atlasnet.normalization_deviations,
    f'{DMC}/tables*': dmc.table_deviations,
    f'{DMC}/ops_*': dmc.operator_deviations,
    f'{DMC}/net_*': dmc.network_deviations,
    'conv/pixel2mesh/*': pixel2mesh.model_deviations,
    'flow/encoders/*': flow.encoder_deviations,
    'flow/decoders/*': flow.decoder_deviations,
    'flow/onet4d/*': flow.onet4d_deviations,
    'flow/psgn4d/*': flow.psgn4d_deviations,
    'flow/velocity_field/*': occupancy_flow.velocity_deviations,
    'flow/ode/*': occupancy_flow.solver_deviations,
    'flow/oflow/*': occupancy_flow.network_deviations,
    'flow/generation/*': occupancy_flow.mesh_deviations,
    f'{NERF}/encoding.*': nerf.encoding_deviations,
    f'{NERF}/mlp_*': nerf.network_deviations,
    f'{NERF}/rays.*': nerf.ray_deviations,
    f'{NERF}/sample_pdf.*': nerf.sampling_deviations,
    f'{NERF}/render_rays_*': nerf.rendering_deviations,
    **{f'{NERF}/{kind}*': nerf.step_deviations for kind in ('train_', 'render_test', 'render_lindisp')},
    f'{TEXTURE}/unprojection*': texture_field.unprojection_deviations,
    f'{TEXTURE}/geometry_*': texture_field.geometry_deviations,
    f'{TEXTURE}/decoder_*': texture_field.decoder_deviations,
    f'{TEXTURE}/discriminator_*': texture_field.discriminator_deviations,
    f'{TEXTURE}/nvs_*': texture_field.unet_deviations,
    f'{TEXTURE}/singleview*': texture_field.view_deviations,
    f'{TEXTURE}/vae*': texture_field.vae_deviations,
    f'{TEXTURE}/gan*': texture_field.gan_deviations,
}
OLD_FORMAT = '_legacyformat'  # of torch; the content is that of the file without it, and so are its results
FILES = sorted({name for pattern in COMPARISONS for name in golden_names(f'{pattern}.npz')})
FILES += [name.replace('.pt', '.npz') for name in golden_names(f'checkpoints/*{OLD_FORMAT}.pt')]
ABSENT = f'{SHARED / "golden"} not found (set ONET_JAX_SHARED): only the files of tests/golden are compared'


# One of each kind of network and of comparison, the one that compiles fastest; the others are slow.
FLOAT64 = (
    'layers/', 'decoders/cbatchnorm_noresnet_c.', 'decoders/simple', 'encoders/encoder_latent', 'encoders/pointnet',
    'encoders/conv_encoder', 'onet/unconditional',
    'checkpoints/pointcloud_legacydecoder', 'conv/conv_onet/unet_depth3.',
    'conv/conv_onet/enc_grid', 'conv/conv_onet/enc_voxel_k1', 'conv/conv_onet/dec_combined_nearest',
    'conv/r2n2/enc_r2n2_simple', 'conv/pixel2mesh/layers',
    *(f'{ATLASNET}/{name}' for name in ('chamfer', 'decoder', 'normalization', 'templates')), f'{DMC}/tables',
    *(f'flow/encoders/{name}' for name in ('latent_pointnet_dim15_c', 'temporal_pointnet')),
    'flow/velocity_field/cz.', 'flow/ode/flow_cz_rtol1e-5',
    *(f'{NERF}/{name}' for name in ('encoding', 'mlp_w32_noviews', 'rays', 'render_rays', 'sample_pdf')),
    *(f'{TEXTURE}/{name}' for name in ('decoder_each_layer_c_larger', 'geometry')),
)  # fmt: skip
FLOAT32 = ('layers/', 'encoders/encoder_latent', 'encoders/pointnet')
# Float64 tells whether the formulas agree. Programs in float32 differ in the dtype alone, so the first file of each kind is
# compared, but for the largest networks, which compile for half a minute.
IN_FLOAT64_ALONE = ('flow/oflow/', 'conv/pixel2mesh/full', 'conv/pixel2mesh/tiny')
OTHERS = [name for name in FILES if not name.startswith(IN_FLOAT64_ALONE)]
IN_FLOAT32 = {file for kind in COMPARISONS for file in filter_names(OTHERS, f'{kind}.npz')[:1]}
IN_FLOAT32 = sorted(IN_FLOAT32.union(name for name in OTHERS if name.startswith(FLOAT32)))


def files(names: list[str], fast: tuple[str, ...]) -> list:
    """Those of the golden files, slow but for those that start like one of `fast`."""
    found = [name if name.startswith(fast) else pytest.param(name, marks=pytest.mark.slow) for name in names]
    if not (SHARED / 'golden').is_dir():
        found.append(pytest.param('others', marks=pytest.mark.skip(ABSENT)))
    return found


def deviations_of(file: str, dtype: type, fast: bool = True) -> Deviations:
    """Of one golden file, with weights and inputs in float32 or float64; `python -m pytest -n0 -rP` prints them.

    fast: with the derivative rules of a training step.
    """
    compare = next(compare for pattern, compare in COMPARISONS.items() if fnmatch(file, pattern))
    with jax.enable_x64(dtype == np.float64), reverse_mode(fast):
        found = compare(Path(file).stem, read_golden(file.replace(OLD_FORMAT, '')), dtype)
    for kind, deviation in found.items():
        print(f'{file} {np.dtype(dtype)}: {kind} {deviation.absolute:.1e} ({deviation.relative:.1e})')
    return found


# Folders whose files have results of the official code in float64.
IN_FLOAT64 = ('decoders/', 'encoders/', 'onet/', 'trained/', 'conv/', 'nerf_atlasnet_dmc/', 'flow/')
# Where rounding moves values across the kink of a ReLU, or turns sines of 512 pi times a coordinate: the official float32
# gradients differ by as much from the official float64 ones, of which the files have the norms.
ROUNDED = {'conv/conv_onet/model_pointconv.npz': 5e-2, 'conv/conv_onet/model_crop_grid_sincos.npz': 0.1,
           **dict.fromkeys((name for name in FILES if name.startswith('flow/oflow/')), 3e-2),
           'flow/texture/singleview.npz': 1e-2,
           'conv/pixel2mesh/tiny_adjusted.npz': 1e-2, 'conv/pixel2mesh/full_official_ellipsoid.npz': 1e-2}  # fmt: skip
# The official float64 run divides by the numbers of neighbours in float32.
RECIPROCALS = 'conv/pixel2mesh/'


def check_float64(file: str, deviations: Deviations) -> None:
    for kind, deviation in deviations.items():
        exact = file.startswith(IN_FLOAT64) and kind.startswith(
            ('logits', 'input gradients', 'largest gradients', 'outputs', 'img', 'points', 'voxels', 'condition',
             'evidence', 'posterior', 'loss', 'norms', 'chosen points', 'templates')
        )  # fmt: skip
        bound = 1e-9 if exact else 1e-6 if kind.startswith('weights after 3') else 5e-4
        bound = ROUNDED.get(file, bound) if kind.startswith('gradients') else bound
        # Where kinks of ReLUs reject steps, rounding decides which; the tolerances of these solutions are larger.
        bound = 2e-6 if kind.startswith('solved') else 3e-5 if kind.startswith('tightly solved') else bound
        # The points that pixels show are unprojected in float32 in the official float64 run.
        bound = 1e-6 if kind.startswith(('rendered', 'unprojected')) else bound
        bound = 1e-7 if file.startswith(RECIPROCALS) and kind.startswith(('norms', 'loss')) else bound
        assert deviation.relative <= bound, (kind, deviation)
        if kind in ('round trip', 'templates', 'tables'):
            assert deviation.absolute == 0


@pytest.mark.parametrize('file', files(FILES, FLOAT64))
def test_float64_equals_the_official_float64_run(file):
    """What the official code also gives in float64 agrees to 1e-9, what it gives in float32 to its rounding."""
    check_float64(file, deviations_of(file, np.float64))


@pytest.mark.parametrize('file', files(IN_FLOAT32, FLOAT32))
def test_float32_equals_the_official_float32_run(file):
    for kind, deviation in deviations_of(file, np.float32).items():
        # Sines of 512 pi times a coordinate: the official float32 is as far from its float64.
        rounding = 100 if 'sincos' in file else 1
        bound = ROUNDED.get(file, 1e-3) if kind.startswith(('gradients', 'norms')) else 1e-3 * rounding
        assert deviation.relative <= bound, (kind, deviation)
        if kind.startswith(('logits', 'outputs', 'img', 'points', 'voxels', 'condition', 'rendered', 'unprojected')):
            assert deviation.absolute <= 1e-4 * rounding, (kind, deviation)


PLAIN = ('decoders/cbatchnorm_cz.npz', 'conv/conv_onet/unet_depth3.npz', 'conv/conv_onet/unet3d_l2.npz')


@pytest.mark.parametrize('file', [name for name in PLAIN if name in FILES])
@pytest.mark.slow
def test_gradients_without_the_rules_for_speed_are_the_official_ones(file):
    """The fast tests compare the rules with the official code above, and with plain JAX in networks/fast_gradients_test.py."""
    check_float64(file, deviations_of(file, np.float64, fast=False))
