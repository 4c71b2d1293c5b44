from types import SimpleNamespace

import jax
import numpy as np
import pytest
from model_configs import small_config

from onet_jax.configs import conv_onet_crops, onet_embedding, onet_unconditional
from onet_jax.data.datasets import open_dataset
from onet_jax.inference.out_of_distribution import (
    NEIGHBOURS,
    Domain,
    learn_domain,
    measure,
    summarise,
    workdir_domain,
)
from onet_jax.models import build
from onet_jax.run import load_run


@pytest.fixture
def arguments(workdir):
    run = load_run(workdir)
    return run.method.model, run.params, run.config, run.data_dir


def test_the_score_is_the_distance_to_the_fifth_neighbour_in_limits():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(50, 4))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    inputs = 7 * rng.normal(size=(9, 4))
    angles = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    distances = np.sort(np.linalg.norm(angles[:, None] - codes, axis=-1), axis=1)
    none = np.zeros((9, 0))  # of statistics
    scores = Domain(codes, 0.5, none, none[0]).score(inputs, none)
    np.testing.assert_allclose(scores, distances[:, NEIGHBOURS - 1] / 0.5)
    scores = Domain(codes[:2], 1.0, none, none[0]).score(codes[:1], none)
    assert scores[0] == pytest.approx(np.linalg.norm(codes[0] - codes[1]))


def test_the_higher_of_the_scores_of_code_and_statistics_counts():
    codes, statistics = np.eye(4)[:3], np.array([[0.0, 1], [0, 2], [0, 3]])
    domain = Domain(codes, 2.0, statistics, np.array([1.0, 0.5]))
    far_code, far_statistics = np.eye(4)[[3]], np.array([[0.0, 31]])
    assert domain.score(codes[:1], statistics[1:2])[0] == pytest.approx(2), 'to the third of three'
    assert domain.score(far_code, statistics[1:2])[0] == pytest.approx(2)
    assert domain.score(codes[:1], far_statistics)[0] == pytest.approx(60)


def test_extent_density_and_noise_of_a_cloud_are_seen_by_any_network(dataset):
    """The code says nothing here."""
    domain = learn_domain(
        SimpleNamespace(encode=lambda params, cloud: np.ones((len(cloud), 2))),
        {},
        small_config(),
        open_dataset(dataset),
    )
    assert domain.statistics.shape == (9, 7)
    rng, codes = np.random.default_rng(0), np.ones((1, 2))
    assert domain.score(codes, domain.statistics.mean(axis=0)[None])[0] <= 1
    for cloud in (
        np.repeat(rng.uniform(-0.5, 0.5, (10, 3)), 3, axis=0),
        0.02 * rng.uniform(-0.5, 0.5, (30, 3)),  # a lump
        rng.uniform(-0.5, 0.5, (30, 3)) * (1, 0, 0),
    ):
        assert domain.score(codes, measure({'cloud': cloud[None]}))[0] > 1
    assert measure({'image': np.zeros((2, 8, 8, 3))}).shape == (2, 0)


def test_the_domain_of_a_run_is_learned_once_for_its_weights(arguments, tmp_path, capsys):
    model, params, config, data_dir = arguments
    domain = workdir_domain(tmp_path, *arguments)
    np.testing.assert_allclose(np.linalg.norm(domain.codes, axis=1), 1, rtol=1e-5)
    assert domain.limit > 0
    stored = dict(np.load(tmp_path / 'domain.npz'))
    np.savez(tmp_path / 'domain.npz', **{**stored, 'limit': 123.0})
    assert workdir_domain(tmp_path, *arguments).limit == 123
    assert workdir_domain(tmp_path, model, params, config, None).limit == 123, 'known without the dataset'
    other = jax.tree.map(lambda array: array + 0.1, params)
    assert workdir_domain(tmp_path, model, other, config, data_dir).limit != 123
    (tmp_path / 'domain.npz').write_bytes(b'PK damaged')
    assert workdir_domain(tmp_path, *arguments) is None
    assert 'domain.npz: expected an archive' in capsys.readouterr().out


def test_a_network_that_gives_one_code_to_all_has_a_domain(arguments):
    model, params, config, data_dir = arguments
    params = jax.tree.map(np.zeros_like, params)
    params['params']['encoder']['fc_c']['bias'] += 1
    domain = learn_domain(model, params, config, open_dataset(data_dir))
    usual = domain.statistics.mean(axis=0)[None]
    assert domain.score(domain.codes[:1], usual) <= 1
    assert domain.score(-domain.codes[:1], usual) > 1


def test_maps_of_places_are_codes_by_their_means(dataset):
    def encode(params, cloud):
        plane = np.asarray(cloud).reshape(-1, 5, 6, 3)
        return {'grid': np.stack([plane, plane**2], axis=1), 'xz': 2 * plane}

    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 30, 3)).astype(np.float32)
    codes = summarise(encode({}, cloud))
    means = cloud.mean(axis=1)
    np.testing.assert_allclose(codes[:, :3], (means + (cloud**2).mean(axis=1)) / 2, atol=1e-6)
    np.testing.assert_allclose(codes[:, 3:], 2 * means, atol=1e-6)
    domain = learn_domain(SimpleNamespace(encode=encode), {}, small_config(), open_dataset(dataset))
    assert domain.codes.shape == (9, 6), 'the training shapes'
    assert np.isfinite(domain.score(codes, measure({'cloud': cloud}))).all()


def test_without_its_dataset_the_domain_is_unknown(arguments, tmp_path, capsys):
    *network, _ = arguments
    assert workdir_domain(tmp_path, *network, tmp_path / 'gone') is None
    assert workdir_domain(tmp_path, *network, None) is None
    assert 'gone) is not here' in capsys.readouterr().out


@pytest.mark.parametrize('file', [onet_embedding, onet_unconditional, conv_onet_crops])
def test_a_model_that_encodes_no_objects_has_no_domain(tmp_path, file):
    config = file('tiny')
    assert workdir_domain(tmp_path, build(config).model, {}, config, tmp_path) is None
    assert not list(tmp_path.iterdir())
