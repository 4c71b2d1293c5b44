"""Frechet inception distance: the official numbers, the network beside torchvision's, and what a file must have."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from onet_jax.errors import InputError
from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.fid import compare_features, frechet_distance, load_inception, whole_batches
from onet_jax.geometry.views import Pictures
from onet_jax.networks import inception

VIEWS = ConfigDict({'targets': ('views',)})


def colour_features(rgb):
    """A stand-in for Inception: the corners of a picture."""
    return rgb[:, ::7, ::7].reshape(len(rgb), -1)


def test_the_distances_are_the_official_ones(golden):
    data = golden('flow/texture/metrics_transforms.npz')
    fake, real, paired = (data[f'in/features_{name}'] for name in ('fake', 'real', 'paired'))
    assert frechet_distance(fake, real) == pytest.approx(data['out/frechet_distance'], abs=1e-12)
    assert np.abs(fake - paired).mean() == pytest.approx(data['out/feature_l1'], abs=1e-12)


def test_fewer_pictures_than_features_have_a_distance():
    """Equal sets have none, and a shift of all features costs its square."""
    few = np.random.default_rng(0).normal(size=(5, 40))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(few, few + 0.5) == pytest.approx(40 * 0.25, abs=1e-10)


def make_results(num_shapes, categories):
    rng, results = np.random.default_rng(1), []
    for i in range(num_shapes):
        true, noise = rng.integers(0, 200, (10, 8, 8, 3)), rng.integers(0, 50, (10, 8, 8, 3))
        pictures = (Pictures(rgb.astype(np.uint8)) for rgb in (true + noise, true))
        results.append(
            Result(categories[i % len(categories)], str(i), {}, {}, 0.1, {}, next(pictures), truth=next(pictures))
        )
    return results


def test_classes_weigh_alike_and_the_last_incomplete_batch_is_left_out():
    results = make_results(14, ('car', 'chair'))
    scores = compare_features(results, colour_features)
    assert list(scores) == ['fid', 'feature_l1', 'fid_car', 'fid_chair', 'feature_l1_car', 'feature_l1_chair']
    for name in ('fid', 'feature_l1'):
        assert scores[name] == pytest.approx((scores[f'{name}_car'] + scores[f'{name}_chair']) / 2)
    predicted, true = (
        colour_features(np.concatenate([getattr(r, part).rgb / 255 for r in results[::2]])[:64])
        for part in ('prediction', 'truth')
    )
    assert scores['fid_car'] == pytest.approx(frechet_distance(predicted, true), rel=1e-4)
    assert scores['feature_l1_car'] == pytest.approx(np.abs(predicted - true).mean(), rel=1e-5)
    assert [len(whole_batches(np.zeros((n, 1)))) for n in (5, 63, 64, 127, 128)] == [5, 63, 64, 64, 128]
    assert list(compare_features(results[::2], colour_features)) == ['fid', 'feature_l1']
    assert '--inception=FILE' in compare_features(results, None)['FID and feature-L1']
    assert compare_features([results[0]._replace(truth=None)], None) == {}, 'no pictures'


def test_a_file_of_another_network_is_refused(tmp_path):
    save_file({'conv1.weight': np.zeros((64, 3, 7, 7), np.float32)}, tmp_path / 'resnet.safetensors')
    with pytest.raises(InputError, match=r'resnet.safetensors: expected the weights of inception_v3 of torchvision'):
        load_inception(tmp_path / 'resnet.safetensors', VIEWS)
    with pytest.raises(FileNotFoundError):
        load_inception(tmp_path / 'absent.pth', VIEWS)
    with pytest.raises(InputError, match=r'expected a network that learns views, found targets .*volume_points'):
        load_inception(tmp_path / 'absent.pth', ConfigDict({'targets': ('volume_points',)}))


@pytest.mark.slow
def test_the_features_are_those_of_torchvision(tmp_path):
    """By random weights and statistics, from a file of torch."""
    torch, torchvision = pytest.importorskip('torch'), pytest.importorskip('torchvision')
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    torch.save(network.state_dict(), tmp_path / 'inception.pth')
    rgb = np.random.default_rng(0).random((2, 64, 64, 3)).astype(np.float32)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        large = torch.nn.functional.interpolate(
            torch.tensor(rgb.transpose(0, 3, 1, 2)), (299, 299), mode='bilinear', align_corners=False
        )
        expected = network(2 * large - 1).numpy()
    found = load_inception(tmp_path / 'inception.pth', VIEWS)(rgb)
    assert found.shape == (2, inception.NUM_FEATURES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
