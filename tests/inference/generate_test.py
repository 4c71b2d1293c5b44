"""Samples and interpolations of small networks with random weights."""

import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_config
from PIL import Image

from configs import onet_embedding, onet_unconditional
from onet_jax import models
from onet_jax.data import records
from onet_jax.data.sources import Source
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
from onet_jax.inference.inputs import READERS
from onet_jax.models.occupancy import decode_mesh

DEFAULTS = {'num_steps': 4, 'seed': 5, 'data_dir': None, 'file_format': 'off'}


def random_weights(config, seed):
    """Weights that nobody trained, with a seed for which shapes are neither empty nor full, and the config."""
    with config.unlocked():
        config.mesh.update(resolution=8, upsampling_steps=0)
    rng = np.random.default_rng(seed)
    params = models.build(config).init(jax.random.key(0), models.example_batch(config.model))
    moved = jax.tree.map(lambda x: x + rng.normal(size=x.shape) / np.sqrt(len(x)), params['params'])
    return {**params, 'params': moved}, config


@pytest.fixture(scope='module')
def vae():
    config = onet_unconditional.get_config('tiny')
    with config.unlocked():
        config.model.update(latent_size=3, decoder_hidden_size=8)
    return random_weights(config, seed=146)


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


def test_the_method_reconstructs_the_same_samples(vae):
    params, config = vae
    meshes = models.build(config).reconstruct(params, np.zeros((3, 0), np.float32), jax.random.key(5))
    model = models.occupancy_network(config.model)
    for number, mesh in enumerate(meshes):
        vertices = decode_mesh(model.bind(params, *sample_code(params, config, number, seed=5)), config).vertices
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
    way = interpolate_files(*vae, '3', '1', output=tmp_path / 'way', **DEFAULTS)
    assert [path.name for path in way] == ['000.off', '001.off', '002.off', '003.off']
    assert way[0].read_bytes() == samples[3].read_bytes()
    assert way[-1].read_bytes() == samples[1].read_bytes()
    with Image.open(tmp_path / 'way' / 'strip.png') as strip:
        assert strip.size[0] == 4 * 224 + 2 * 28
    with Image.open(tmp_path / 'way' / 'strip.gif') as morph:
        assert (morph.n_frames, morph.info['loop']) == (2 * 4 - 2, 0)


@pytest.mark.parametrize('sees', ['none', 'points'])
def test_a_shape_of_a_dataset_has_the_mean_of_its_posterior(vae, dataset, tmp_path, sees):
    params, config = vae
    if sees == 'points':
        config = small_config()
        with config.unlocked():
            config.model.latent_size = 3
        params, config = random_weights(config, seed=51)
    shape = records.read_shape(records.shape_path(dataset, 'mug', '000002'))
    code = infer_code(params, config, shape)
    assert code.cond.shape == (1, config.model.cond_size)
    model = models.occupancy_network(config.model)
    points, occ = shape.points[None, :2048].astype(np.float32), shape.occ[None, :2048].astype(np.float32)
    mean, _ = model.posterior(params, points, occ, code.cond)
    np.testing.assert_array_equal(code.latent, mean)

    names = ('mug/000002', 'chair/000000')
    way = interpolate_files(params, config, *names, output=tmp_path / 'way', **DEFAULTS | {'data_dir': dataset})
    save_mesh(decode_mesh(model.bind(params, *code), config), tmp_path / 'start.off')
    assert way[0].read_bytes() == (tmp_path / 'start.off').read_bytes()


def test_without_latent_code_the_condition_moves_between_two_files(clouds, tmp_path):
    params, config = random_weights(small_config(), seed=21)
    way = interpolate_files(params, config, *map(str, clouds), output=tmp_path / 'way', **DEFAULTS)
    method = models.build(config)
    for path, target in zip(clouds, (way[0], way[-1]), strict=True):
        values, _ = READERS['points'].read(Source(path.stem, path), config)
        (mesh,) = method.reconstruct(params, values[None], jax.random.key(0))
        save_mesh(mesh, tmp_path / 'expected.off')
        assert target.read_bytes() == (tmp_path / 'expected.off').read_bytes()
    box, rod = (encode_file(params, config, path) for path in clouds)
    model = models.occupancy_network(config.model)
    middle = decode_mesh(model.bind(params, *interpolate(box, rod, 3)[1]), config)
    assert not np.array_equal(middle.vertices, trimesh.load(way[0], process=False).vertices)


def test_empty_level_sets_are_tiles_without_files(vae, tmp_path, capsys):
    params, config = vae
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.threshold = 1 - 1e-12
    (tmp_path / '001.off').write_text('of an earlier run')
    assert interpolate_files(params, config, '0', '1', output=tmp_path, **DEFAULTS) == []
    assert sample_files(params, config, 2, 5, tmp_path, 'off') == []
    assert capsys.readouterr().out.count('empty level set') == 4 + 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['contact_sheet.png', 'strip.gif', 'strip.png']


@pytest.mark.parametrize(
    'start, options, message',
    [
        ('0', {'num_steps': 1}, r'--num_steps: expected at least 2, .* found 1'),
        ('0', {'file_format': 'usd'}, r"--format: expected one of .*'ply'.*found 'usd'"),
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


def test_models_without_a_way_are_named(clouds, tmp_path):
    embedding = onet_embedding.get_config('tiny')
    with pytest.raises(ValueError, match=r"config.data.input: expected one of the inputs .* found 'index'"):
        interpolate_files({}, embedding, '0', '1', output=tmp_path / 'out', **DEFAULTS)
    with pytest.raises(ValueError, match=r"expected a model without input .* found 'points' and 0"):
        sample_files({}, small_config(), 1, 0, tmp_path / 'out', 'off')
    with pytest.raises(FileNotFoundError, match='3: expected a point cloud'):
        interpolate_files({}, small_config(), '3', str(clouds[0]), output=tmp_path / 'out', **DEFAULTS)
    assert not (tmp_path / 'out').exists()


def test_no_input_is_overwritten(clouds, tmp_path):
    mine = trimesh.creation.box()
    mine.export(tmp_path / '002.off')
    before = (tmp_path / '002.off').read_bytes()
    with pytest.raises(ValueError, match=r'--end: expected a file that stays, found .*002.off'):
        interpolate_files({}, small_config(), str(clouds[0]), f'{tmp_path}/002.off', output=tmp_path, **DEFAULTS)
    assert (tmp_path / '002.off').read_bytes() == before
