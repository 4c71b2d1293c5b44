"""Samples and interpolations of small networks with random weights."""

import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_config
from PIL import Image
from untrained import untrained

from onet_jax import models
from onet_jax.configs import conv_onet_crops, onet_embedding, onet_unconditional
from onet_jax.data import records
from onet_jax.data.fields import read_inputs
from onet_jax.data.sources import Source
from onet_jax.geometry.extract import extract_mesh
from onet_jax.geometry.meshes import save_mesh
from onet_jax.inference.generate import (
    Code,
    encode_file,
    infer_code,
    interpolate,
    interpolate_files,
    sample_code,
    sample_files,
)
from onet_jax.models.occupancy import mesh_settings

DEFAULTS = {'num_steps': 4, 'seed': 5, 'data_dir': None, 'file_format': 'off'}


def network(config, seed):
    """Model, weights that nobody trained, with a seed for which shapes are neither empty nor full, and the config."""
    with config.unlocked():
        config.mesh.update(resolution=8, upsampling_steps=0)
        config.eval.threshold = 0.5
    method, params = untrained(config, seed)
    params['params']['decoder']['fc_p']['kernel'] *= 10  # the field depends on the place
    return method.model, params, config


def decode(model, params, config, code):
    return extract_mesh(model.bind(params, *code), **mesh_settings(config))


@pytest.fixture(scope='module')
def vae():
    config = onet_unconditional('tiny')
    with config.unlocked():
        config.model.update(latent_size=3, decoder_hidden_size=8)
    return network(config, seed=7)


@pytest.fixture(scope='module')
def unsampled():
    """Of a network that sees a cloud."""
    return network(small_config(), seed=10)


@pytest.fixture
def clouds(tmp_path):
    """Two files of 40 points, a box and a rod."""
    for name, edges in (('box', (1, 1, 1)), ('rod', (0.2, 3, 0.2))):
        np.save(tmp_path / f'{name}.npy', np.random.default_rng(0).uniform(-1, 1, (40, 3)) * edges)
    return tmp_path / 'box.npy', tmp_path / 'rod.npy'


def test_samples_are_functions_of_the_seed_and_their_number(vae, tmp_path):
    few = sample_files(*vae, 2, 5, tmp_path / 'few', 'off')
    many = sample_files(*vae, 4, 5, tmp_path / 'many', 'off')
    assert [path.name for path in many] == [f'sample_{i:03d}.off' for i in range(4)]
    for path in few:
        assert path.read_bytes() == (tmp_path / 'many' / path.name).read_bytes()
    assert len({path.read_bytes() for path in many}) == 4
    with Image.open(tmp_path / 'many' / 'contact_sheet.png') as sheet:
        assert min(sheet.size) > 2 * 224, 'two by two'


def test_the_method_predicts_the_same_samples(vae):
    _, params, config = vae
    meshes = models.build(config).predict(params, {'none': np.zeros((3, 0), np.float32)}, jax.random.key(5))
    for number, mesh in enumerate(meshes):
        vertices = decode(*vae, sample_code(*vae, number, seed=5)).vertices
        np.testing.assert_allclose(vertices, mesh.vertices, atol=1e-5)


def test_the_way_is_straight_and_its_ends_are_exact():
    start, end = (Code(*jax.random.normal(jax.random.key(i), (2, 1, 7))) for i in range(2))
    way = interpolate(start, end, 5)
    for i, (found, a, b) in enumerate(zip(way, [start] * 5, [end] * 5, strict=True)):
        for x, from_, to in zip(found, a, b, strict=True):
            np.testing.assert_allclose(x, from_ + i / 4 * (to - from_), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, (way[0], way[-1]), (start, end))
    assert interpolate(Code(start.cond, None), Code(end.cond, None), 2)[1].latent is None


def test_the_ends_are_the_meshes_of_the_samples(vae, tmp_path):
    samples = sample_files(*vae, 4, 5, tmp_path / 'samples', 'off')
    way = interpolate_files(*vae, '2', '0', output=tmp_path / 'way', **DEFAULTS)
    assert [path.name for path in way] == ['000.off', '001.off', '002.off', '003.off']
    assert way[0].read_bytes() == samples[2].read_bytes()
    assert way[-1].read_bytes() == samples[0].read_bytes()
    with Image.open(tmp_path / 'way' / 'strip.png') as strip:
        assert strip.size[0] == 4 * 224 + 2 * 28
    with Image.open(tmp_path / 'way' / 'strip.gif') as morph:
        assert (morph.n_frames, morph.info['loop']) == (2 * 4 - 2, 0)


@pytest.mark.parametrize('sees', ['none', 'cloud'])
def test_a_shape_of_a_dataset_has_the_mean_of_its_posterior(vae, dataset, tmp_path, sees):
    model, params, config = vae
    if sees == 'cloud':
        config = small_config()
        with config.unlocked():
            config.model.latent_size = 3
        model, params, config = network(config, seed=2)
    start = 'mug/000002'
    shape = records.read_shape(records.shape_path(dataset, *start.split('/')))
    code = infer_code(model, params, config, '--start', start, dataset)
    assert code.cond.shape == (1, config.model.cond_size)
    chosen = np.linspace(0, 2047, config.data.num_points_per_step).round().astype(int)
    points, occ = shape.points[None, chosen].astype(np.float32), shape.occ[None, chosen].astype(np.float32)
    mean, _ = model.posterior(params, points, occ, code.cond)
    np.testing.assert_allclose(code.latent, mean, atol=1e-6)

    options = DEFAULTS | {'data_dir': dataset, 'num_steps': 2}
    way = interpolate_files(model, params, config, start, 'chair/000000', output=tmp_path / 'way', **options)
    save_mesh(decode(model, params, config, code), tmp_path / 'start.off')
    assert way[0].read_bytes() == (tmp_path / 'start.off').read_bytes()


def test_without_latent_code_the_condition_moves_between_two_files(unsampled, clouds, tmp_path):
    _, params, config = unsampled
    way = interpolate_files(*unsampled, *map(str, clouds), output=tmp_path / 'way', **DEFAULTS)
    method = models.build(config)
    for path, target in zip(clouds, (way[0], way[-1]), strict=True):
        inputs, _ = read_inputs(config.data, Source(path.stem, path), config.seed)
        batch = {name: array[None] for name, array in inputs.items()}
        (mesh,) = method.predict(params, batch, jax.random.key(0))
        save_mesh(mesh, tmp_path / 'expected.off')
        assert target.read_bytes() == (tmp_path / 'expected.off').read_bytes()
    box, rod = (encode_file(*unsampled, path) for path in clouds)
    middle = decode(*unsampled, interpolate(box, rod, 3)[1])
    assert not np.array_equal(middle.vertices, trimesh.load(way[0], process=False).vertices)


def test_empty_level_sets_are_tiles_without_files(vae, tmp_path, capsys):
    model, params, config = vae
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.threshold = 1 - 1e-12
    assert interpolate_files(model, params, config, '0', '1', output=tmp_path, **DEFAULTS) == []
    assert sample_files(model, params, config, 2, 5, tmp_path, 'off') == []
    assert capsys.readouterr().out.count('empty level set') == 4 + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['contact_sheet.png', 'strip.gif', 'strip.png']


@pytest.mark.parametrize(
    'start, options, message',
    [
        ('0', {'num_steps': 1}, r'--num_steps: expected at least 2, .* found 1'),
        ('0', {'file_format': 'usd'}, r"expected one of the formats ply.*found 'usd'"),
        ('chair/000000', {}, r'--data_dir: expected the dataset of --start=chair/000000'),
        ('-1', {'data_dir': 'dataset'}, r'--start: expected the number of a sample or a shape of .*/\d+, found'),
        ('chair/7', {'data_dir': 'dataset'}, r"--start: expected .* a shape of .* such as chair/\d+, found 'chair/7'"),
        ('99999999999', {}, r'number of a sample: expected 0 to 2147483647, found 99999999999'),
    ],
)
def test_ends_that_are_none_are_named(vae, dataset, tmp_path, start, options, message):
    options = DEFAULTS | options | ({'data_dir': dataset} if 'data_dir' in options else {})
    with pytest.raises(ValueError, match=message):
        interpolate_files(*vae, start, '1', output=tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def test_models_without_a_way_are_named(unsampled, clouds, tmp_path):
    output = {'output': tmp_path / 'out', **DEFAULTS}
    for file, name in ((onet_embedding, 'index'), (conv_onet_crops, 'scene')):
        with pytest.raises(
            ValueError, match=rf"config: expected a model of occupancy .* found data.inputs \('{name}',"
        ):
            interpolate_files(None, {}, file('tiny'), '0', '1', **output)
    with pytest.raises(ValueError, match=r"expected a model without input .* found data.inputs \('cloud',\)"):
        sample_files(*unsampled, 1, 0, tmp_path / 'out', 'off')
    with pytest.raises(FileNotFoundError, match='3: expected a mesh or a point cloud'):
        interpolate_files(*unsampled, '3', str(clouds[0]), **output)
    assert not (tmp_path / 'out').exists()


def test_no_input_is_overwritten(unsampled, clouds, tmp_path):
    mine = trimesh.creation.box()
    mine.export(tmp_path / '002.off')
    before = (tmp_path / '002.off').read_bytes()
    with pytest.raises(ValueError, match=r'002.off: expected a new file, found the input .*002.off'):
        interpolate_files(*unsampled, str(clouds[0]), f'{tmp_path}/002.off', output=tmp_path, **DEFAULTS)
    with pytest.raises(ValueError, match=r'002.off: expected a new file, found one; delete it'):
        interpolate_files(*unsampled, *map(str, clouds), output=tmp_path, **DEFAULTS)
    assert (tmp_path / '002.off').read_bytes() == before
    (tmp_path / 'contact_sheet.png').touch()
    with pytest.raises(ValueError, match=r'contact_sheet.png: expected a new file'):
        sample_files(*unsampled, 2, 5, tmp_path, 'off')
