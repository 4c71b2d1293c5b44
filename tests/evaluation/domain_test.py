import numpy as np
import pytest

from configs import onet_embedding
from onet_jax.evaluation.domain import NEIGHBOURS, Domain, workdir_domain
from onet_jax.training.checkpoints import load_run


@pytest.fixture
def arguments(workdir):
    run = load_run(workdir)
    return run.step, run.params, run.config, run.data_dir


def test_strangeness_is_the_distance_to_the_fifth_neighbour_in_limits():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(50, 4))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    inputs = 7 * rng.normal(size=(9, 4))
    angles = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    distances = np.sort(np.linalg.norm(angles[:, None] - codes, axis=-1), axis=1)
    np.testing.assert_allclose(Domain(codes, 0.5).strangeness(inputs), distances[:, NEIGHBOURS - 1] / 0.5)
    assert Domain(codes[:2], 1.0).strangeness(codes[:1])[0] == pytest.approx(np.linalg.norm(codes[0] - codes[1]))


def test_the_domain_of_a_run_is_learned_once_for_each_checkpoint(workdir, arguments, tmp_path):
    domain = workdir_domain(tmp_path, *arguments)
    np.testing.assert_allclose(np.linalg.norm(domain.codes, axis=1), 1, rtol=1e-5)
    assert domain.limit > 0
    np.savez(tmp_path / 'domain.npz', step=arguments[0], codes=domain.codes, limit=123.0)
    assert workdir_domain(tmp_path, *arguments).limit == 123
    assert workdir_domain(tmp_path, arguments[0] + 1, *arguments[1:]).limit == domain.limit, 'of another checkpoint'
    (tmp_path / 'domain.npz').write_bytes(b'PK damaged')
    with pytest.raises(ValueError, match=r'domain.npz: expected an archive'):
        workdir_domain(tmp_path, *arguments)


def test_without_its_dataset_the_domain_is_unknown(arguments, tmp_path, capsys):
    assert workdir_domain(tmp_path, *arguments[:3], tmp_path / 'gone') is None
    assert workdir_domain(tmp_path, *arguments[:3], None) is None
    assert 'gone) is not here, so which inputs are unlike those of the training is unknown' in capsys.readouterr().out


def test_an_embedding_has_no_domain(tmp_path):
    assert workdir_domain(tmp_path, 1, {}, onet_embedding.get_config('tiny'), tmp_path) is None
    assert not list(tmp_path.iterdir())
