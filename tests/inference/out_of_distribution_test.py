import jax
import numpy as np
import pytest

from configs import conv_onet, onet_embedding, onet_unconditional
from onet_jax import models
from onet_jax.inference.out_of_distribution import NEIGHBOURS, Domain, learn_domain, summarise, workdir_domain
from onet_jax.training.checkpoints import load_run


@pytest.fixture
def arguments(workdir):
    run = load_run(workdir)
    return run.params, run.config, run.data_dir


def test_strangeness_is_the_distance_to_the_fifth_neighbour_in_limits():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(50, 4))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    inputs = 7 * rng.normal(size=(9, 4))
    angles = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    distances = np.sort(np.linalg.norm(angles[:, None] - codes, axis=-1), axis=1)
    np.testing.assert_allclose(Domain(codes, 0.5).strangeness(inputs), distances[:, NEIGHBOURS - 1] / 0.5)
    assert Domain(codes[:2], 1.0).strangeness(codes[:1])[0] == pytest.approx(np.linalg.norm(codes[0] - codes[1]))


def test_the_domain_of_a_run_is_learned_once_for_its_weights(arguments, tmp_path, capsys):
    params, config, data_dir = arguments
    domain = workdir_domain(tmp_path, *arguments)
    np.testing.assert_allclose(np.linalg.norm(domain.codes, axis=1), 1, rtol=1e-5)
    assert domain.limit > 0
    stored = dict(np.load(tmp_path / 'domain.npz'))
    np.savez(tmp_path / 'domain.npz', **{**stored, 'limit': 123.0})
    assert workdir_domain(tmp_path, *arguments).limit == 123
    assert workdir_domain(tmp_path, params, config, None).limit == 123, 'known without the dataset'
    other = jax.tree.map(lambda array: array + 0.1, params)
    assert workdir_domain(tmp_path, other, config, data_dir).limit != 123
    (tmp_path / 'domain.npz').write_bytes(b'PK damaged')
    assert workdir_domain(tmp_path, *arguments) is None
    assert 'domain.npz: expected an archive' in capsys.readouterr().out


def test_a_network_that_gives_one_code_to_all_has_a_domain(arguments):
    params, config, data_dir = arguments
    params = jax.tree.map(np.zeros_like, params)
    params['params']['encoder']['fc_c']['bias'] += 1
    domain = learn_domain(params, config, data_dir)
    assert domain.strangeness(domain.codes[:1]) <= 1
    assert domain.strangeness(-domain.codes[:1]) > 1


def test_maps_of_places_are_codes_by_their_means(dataset):
    config = conv_onet.get_config('tiny,maps=all')
    with config.unlocked():
        config.data.num_input_points = 30
        config.model.update(plane_resolution=8, unet_depth=2, unet_size=4, grid_resolution=4, unet3d_size=8)
    model = models.occupancy_network(config.model)
    params = model.init(jax.random.key(0), models.example_batch(config.model))
    cond = model.encode(params, np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30, 3)).astype(np.float32))
    codes = summarise(cond)
    assert codes.shape == (2, 4 * 32)
    grid = np.asarray(cond['grid'])
    np.testing.assert_allclose(codes[:, :32], grid.reshape(2, -1, 32).mean(axis=1), rtol=1e-5)
    domain = learn_domain(params, config, dataset)
    assert domain.codes.shape[1] == 4 * 32
    assert np.isfinite(domain.strangeness(codes)).all()


def test_without_its_dataset_the_domain_is_unknown(arguments, tmp_path, capsys):
    params, config, _ = arguments
    assert workdir_domain(tmp_path, params, config, tmp_path / 'gone') is None
    assert workdir_domain(tmp_path, params, config, None) is None
    assert 'gone) is not here' in capsys.readouterr().out


@pytest.mark.parametrize('file', [onet_embedding, onet_unconditional])
def test_a_model_that_encodes_no_inputs_has_no_domain(tmp_path, file):
    assert workdir_domain(tmp_path, {}, file.get_config('tiny'), tmp_path) is None
    assert not list(tmp_path.iterdir())
