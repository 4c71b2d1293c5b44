"""Exports: files that another process calls without this package, with the numbers of the functions that they were made of."""

import sys
from importlib.util import find_spec

import pytest
from entry_points import launch
from model_configs import small_config, tiny_method
from untrained import untrained

from benchmarks.export import measure
from onet_jax import InputError, configs
from onet_jax.convert.exported import export_functions
from onet_jax.training.portable import write_weights


def check(config, folder, file_format, names=()):
    """Export functions of an untrained network: called in another process they return the same but for rounding."""
    method, params = untrained(config)
    for name, export in measure(method, params, config.data, folder, file_format, names).items():
        assert export.difference < 1e-5, name


def shrunk(config, **model):
    with config.unlocked():
        config.model.update(model)
    return config


def small_field():
    return shrunk(configs.nerf('tiny'), width=8, depth=2, bottleneck_size=8, num_frequencies=2)


def small_flow():
    widths = {'cond_size': 8, 'encoder_hidden_size': 8, 'decoder_hidden_size': 8, 'velocity_hidden_size': 8}
    return shrunk(configs.occupancy_flow('tiny'), velocity_blocks=1, decoder='shallow', **widths)


def small_texture():
    widths = {'cond_size': 8, 'geometry_size': 8, 'decoder_hidden_size': 8, 'geometry_hidden_size': 8}
    return shrunk(configs.texture_field('tiny,vae'), picture_hidden_size=4, **widths)


def small_planes():
    widths = {'cond_size': 4, 'encoder_hidden_size': 4, 'decoder_hidden_size': 4, 'unet_size': 4, 'unet_depth': 2}
    return shrunk(configs.conv_onet('tiny'), plane_resolution=8, maps=('xz',), **widths)


@pytest.mark.parametrize('make_config', [small_config, small_field], ids=['occupancy', 'radiance'])
def test_stablehlo_is_called_without_this_package(make_config, tmp_path):
    check(make_config(), tmp_path / 'out', 'stablehlo')


@pytest.mark.slow
@pytest.mark.parametrize(
    'make_config',
    [small_flow, small_texture, small_planes, lambda: configs.onet_unconditional('tiny'), lambda: configs.r2n2('tiny')],
    ids=['velocity', 'colour', 'planes', 'latent', 'voxels'],
)
def test_stablehlo_of_every_kind_of_function(make_config, tmp_path):
    check(make_config(), tmp_path / 'out', 'stablehlo')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of jax2onnx, which imports all that it could convert
@pytest.mark.skipif(not (find_spec('jax2onnx') and find_spec('onnxruntime')), reason="pip install 'onet_jax[export]'")
def test_onnx_is_called_without_this_package(tmp_path):
    for make_config in (small_config, small_field, small_flow, small_texture):
        check(make_config(), tmp_path / make_config.__name__, 'onnx')
    check(small_planes(), tmp_path / 'planes', 'onnx', ['occupancy'])
    method, params = untrained(small_planes())
    with pytest.raises(
        InputError, match=r'expected a function that jax2onnx can convert, found .*; --format=stablehlo can'
    ):
        export_functions(method, params, small_planes().data, tmp_path / 'cloud', ['encode'], 'onnx')


def test_the_command_writes_functions_and_refuses_what_does_not_go_together(tmp_path, monkeypatch):
    workdir, out = tmp_path / 'weights', tmp_path / 'out'
    write_weights(workdir, small_config(), 7, untrained(small_config())[1], {}, None)
    asked = [f'--workdir={workdir}', f'--output={out}']
    for flags, message in (
        (['--functions=encode'], '--functions: expected --format=stablehlo or --format=onnx'),
        (
            ['--format=stablehlo', '--functions=encode,color'],
            '--functions: expected some of encode, occupancy, found color',
        ),
        (['--format=pt'], r'flag --format=pt: value should be one of <safetensors|stablehlo|onnx>'),
    ):
        done = launch('export', *asked, *flags)
        assert done.returncode == 1
        assert message in done.stderr
    monkeypatch.setitem(sys.modules, 'jax2onnx', None)
    assert "pip install 'onet_jax[export]'" in launch('export', *asked, '--format=onnx').stderr
    done = launch('export', *asked, '--format=stablehlo', '--functions=encode')
    assert (done.returncode, [path.name for path in out.iterdir()]) == (0, ['encode.stablehlo'])
    assert f'step 7 -> {out}/encode.stablehlo; docs/exports.md' in done.stdout
    assert 'found files in it' in launch('export', *asked, '--format=stablehlo').stderr
    method = tiny_method(small_config())
    with pytest.raises(InputError, match=r'expected a network with `Method.signatures`'):
        export_functions(method, {}, small_config().data, tmp_path / 'none')
