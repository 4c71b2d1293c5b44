"""Samples, interpolations and motion transfer of a network of shapes that move, of which the codes are known."""

import numpy as np
import pytest
from model_configs import small_config
from moving_shapes import AXES, NUM_FRAMES, make_egg_model
from numbered_sequences import decode as decode_numbers
from numbered_sequences import make_config, write_numbered_sequences
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.inference import clip_files, generate
from onet_jax.inference.clip_files import load_clip
from onet_jax.inference.generate import infer_code, interpolate_files, sample_files

pytestmark = pytest.mark.usefixtures('small_pictures')

OPTIONS = {'num_steps': 3, 'seed': 5, 'data_dir': None, 'file_format': 'off'}


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr(clip_files, 'GIF_SIZE', 16)
    monkeypatch.setattr(generate, 'TILE', 26)


def network(latent_size):
    config = small_config()
    with config.unlocked():
        config.data.update(inputs=('none',) if latent_size else ('clip',), num_frames=NUM_FRAMES, corresponding=True)
        config.data.update(num_input_points=400)
        config.mesh.update(resolution=16, upsampling_steps=1)
        config.eval.threshold = 0.5
    return make_egg_model(latent_size), {}, config


LATENT, CONDITIONED = network(1), network(0)


@pytest.fixture
def sequences(tmp_path):
    """Clouds of eggs that go sideways and up, of 2 and 1 m: two folders."""
    directions = np.random.default_rng(0).normal(size=(400, 3))
    egg = directions / np.linalg.norm(directions, axis=1, keepdims=True) * AXES / 0.8
    for name, size, way in (('wide', 2.0, [0.3, 0, 0]), ('small', 1.0, [0, 0.2, 0])):
        (tmp_path / name).mkdir()
        for k, time in enumerate(np.linspace(0, 1, NUM_FRAMES)):
            np.save(tmp_path / name / f'{k}.npy', size * (egg + time * np.array(way)))
    return str(tmp_path / 'wide'), str(tmp_path / 'small')


def describe(target):
    """How long an egg is, and where it goes, by the files of its frames."""
    found = load_clip(target, NUM_FRAMES, 'off')
    return np.ptp(found.vertices[0, :, 0]), found.vertices[-1].mean(axis=0) - found.vertices[0].mean(axis=0)


def test_samples_have_the_codes_of_the_prior(tmp_path):
    model = LATENT[0]
    targets = sample_files(*LATENT, 2, 5, tmp_path / 'out', 'off')
    assert [target.name for target in targets] == ['sample_000.glb', 'sample_001.glb']
    for number, target in enumerate(targets):
        ((size,),), (way,) = model.prior(generate.jax.random.key(5), np.array([number]))
        found, went = describe(target)
        np.testing.assert_allclose(found, size, atol=0.05)
        np.testing.assert_allclose(went, way, atol=1e-5)
    with Image.open(tmp_path / 'out' / 'contact_sheet.png') as sheet:
        assert sheet.size[0] == 3 * 26 + 2 * 3, 'the first, the middle and the last frame'
    with Image.open(tmp_path / 'out' / 'contact_sheet.gif') as both:
        assert (both.size, both.n_frames) == ((2 * 26, 26), 2 * NUM_FRAMES - 2)


def test_a_network_of_one_sequence_gives_this_one(tmp_path):
    model, params, config = network(1)
    one = model._replace(
        latent_size=0,
        encode=lambda params, inputs: (np.full((1, 1), 0.7), np.array([[0, 0.2, 0]])),
    )
    (target,) = sample_files(one, params, config, 8, 5, tmp_path, 'off')
    found, went = describe(target)
    np.testing.assert_allclose(found, 0.7, atol=0.05)
    np.testing.assert_allclose(went, [0, 0.2, 0], atol=1e-5)


@pytest.mark.slow
def test_all_samples_have_a_given_shape_or_motion(tmp_path):
    """Here those of other samples."""
    own = [describe(target) for target in sample_files(*LATENT, 3, 5, tmp_path / 'own', 'off')]
    shaped = [describe(target) for target in sample_files(*LATENT, 2, 5, tmp_path / 'a', 'off', shape='2')]
    moved = [describe(target) for target in sample_files(*LATENT, 2, 5, tmp_path / 'b', 'off', motion='2')]
    for number in range(2):
        np.testing.assert_allclose(shaped[number][0], own[2][0], atol=1e-6)
        np.testing.assert_allclose(shaped[number][1], own[number][1], atol=1e-5)
        np.testing.assert_allclose(moved[number][0], own[number][0], atol=1e-6)
        np.testing.assert_allclose(moved[number][1], own[2][1], atol=1e-5)


@pytest.mark.parametrize('kind', ['latent', 'conditioned'])
def test_the_shape_of_one_sequence_moves_as_another_does(sequences, tmp_path, kind):
    """Both read from files: in object coordinates either is 1 long."""
    wide, small = sequences
    (target,) = sample_files(
        *(LATENT if kind == 'latent' else CONDITIONED), 8, 0, tmp_path / 'out', 'off', shape=wide, motion=small
    )
    size, way = describe(target)
    np.testing.assert_allclose(size, 1, atol=0.05)
    np.testing.assert_allclose(way, [0, 0.2, 0], atol=0.01)
    with Image.open(tmp_path / 'out' / 'contact_sheet.gif') as three:
        assert three.size == (3 * 26, 26), 'beside the two'


@pytest.mark.parametrize('latent_size', [0, 1])
@pytest.mark.parametrize('name, start', [('cat/1', 0), ('cat/1/4', 4)])
def test_a_sequence_of_a_dataset_has_the_code_of_one_of_its_clips(tmp_path, latent_size, name, start):
    """Of the input that the network sees, or of the clip that the posterior sees."""
    config = make_config(inputs=('none',) if latent_size else ('clip',))
    model = make_egg_model(latent_size)._replace(posterior=lambda params, clip, cond: ((clip, clip), None))
    model = model if latent_size else model._replace(encode=lambda params, clip: (clip, clip))
    code = infer_code(model, {}, config, '--shape', name, write_numbered_sequences(tmp_path))
    seen, _ = code.latent if latent_size else code.cond
    number, frames, _ = decode_numbers(seen)
    assert (number == 1).all()
    assert frames[0, :, 0].tolist() == list(range(start, start + 4))
    with pytest.raises(InputError, match=r'--shape: expected .* a shape of .* such as cat/0/0, found .cat/7'):
        infer_code(model, {}, config, '--shape', 'cat/7', tmp_path)


def test_the_way_between_two_sequences(sequences, tmp_path):
    targets = interpolate_files(*CONDITIONED, *sequences, output=tmp_path / 'way', **OPTIONS)
    assert [target.name for target in targets] == ['000.glb', '001.glb', '002.glb']
    ways = [describe(target)[1] for target in targets]
    np.testing.assert_allclose(ways, [[0.3, 0, 0], [0.15, 0.1, 0], [0, 0.2, 0]], atol=0.01)
    assert {path.name for path in (tmp_path / 'way').iterdir()} == {
        *(f'{k:03d}{suffix}' for k in range(3) for suffix in ('', '.glb', '.gif')), 'strip.png', 'strip.gif',
    }  # fmt: skip


def test_an_empty_sequence_has_a_tile(tmp_path, capsys):
    model, params, config = LATENT
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.threshold = 1 - 1e-12
    assert sample_files(model, params, config, 1, 5, tmp_path, 'off') == []
    assert 'sample_000.glb: empty level set' in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ['contact_sheet.gif', 'contact_sheet.png']


def test_what_cannot_be_mixed_is_named(sequences, tmp_path):
    wide, small = sequences
    with pytest.raises(InputError, match=r"expected a model without input to sample, found data.inputs \('clip',\)"):
        sample_files(*CONDITIONED, 1, 0, tmp_path / 'out', 'off', shape=wide)
    with pytest.raises(InputError, match='--data_dir: expected the dataset of --motion=human/3'):
        sample_files(*CONDITIONED, 1, 0, tmp_path / 'out', 'off', shape=wide, motion='human/3')
    with pytest.raises(InputError, match='--shape, --motion: expected a network of shapes that move'):
        sample_files(None, {}, small_config(), 1, 0, tmp_path / 'out', 'off', shape=wide)
    (tmp_path / 'out' / 'sample_000').mkdir(parents=True)
    (tmp_path / 'out' / 'sample_000' / '003.off').touch()
    with pytest.raises(InputError, match=r'003.off: expected a new file, found one'):
        sample_files(*CONDITIONED, 1, 0, tmp_path / 'out', 'off', shape=wide, motion=small)
