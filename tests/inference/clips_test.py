"""Reconstruction of a user's sequences: the files, the manifest, the page, and what is wrong with some of them."""

import json

import numpy as np
import pytest
import trimesh
from model_configs import small_config
from moving_shapes import NUM_FRAMES, make_egg_model, moved, moving_egg
from PIL import Image
from predictions import predicting

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh
from onet_jax.geometry.sequence_files import fit, save_frames
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of
from onet_jax.inference import clip_files, reconstruct
from onet_jax.inference.clip_files import load_clip
from onet_jax.inference.finish import Finish
from onet_jax.inference.reconstruct import reconstruct_files

pytestmark = pytest.mark.usefixtures('small_pictures')

PLACE, SCALE = np.array([100.0, -20, 3]), 3.0
EGG = moving_egg(subdivisions=2)
IN_OBJECT = EGG._replace(vertices=EGG.vertices / 0.8)  # the longest edge of the first frame is 1


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr(clip_files, 'GIF_SIZE', 16)


@pytest.fixture
def no_page(monkeypatch):
    """Its pictures take longer than all the rest."""
    monkeypatch.setattr(reconstruct, 'write_gallery', lambda *_: [])


@pytest.fixture
def config():
    config = small_config()
    with config.unlocked():
        config.data.update(inputs=('clip',), num_frames=NUM_FRAMES, corresponding=True)
    return config


@pytest.fixture
def clips(tmp_path):
    """Two sequences of 9 clouds of the egg, far from the origin."""
    for name in ('walk', 'run.v2'):
        (tmp_path / 'in' / name).mkdir(parents=True)
        for k, cloud in enumerate(SCALE * moved(EGG.vertices[0], 9) + PLACE):
            np.savetxt(tmp_path / 'in' / name / f'{k:03d}.xyz', cloud, fmt='%.9f')
    return tmp_path / 'in'


def predict_egg(inputs):
    assert inputs['clip'].shape[1:] == (NUM_FRAMES, 30, 3)
    return [IN_OBJECT for _ in inputs['clip']]


def test_a_sequence_becomes_an_animation_a_picture_and_meshes_in_the_frame_of_the_user(clips, config, tmp_path, capsys):
    output = tmp_path / 'out'
    written = reconstruct_files(predicting(predict_egg), {}, config, clips, output, 'obj')
    assert written == [output / 'run.v2.glb', output / 'walk.glb']
    said = capsys.readouterr().out
    assert 'walk: warning: 9 frames are resampled linearly to 5' in said
    assert f'walk -> {output}/walk.glb: 162 vertices, 320 faces, 5 frames; in the worst frame points lie ' in said
    for k in range(NUM_FRAMES):
        mesh = load_mesh(output / 'run.v2' / f'{k:03d}.obj')
        np.testing.assert_array_equal(mesh.faces, EGG.faces)
        np.testing.assert_allclose(mesh.vertices, SCALE * EGG.vertices[k] + PLACE, atol=1e-5)
    np.testing.assert_allclose(load_mesh(output / 'walk.glb').vertices, SCALE * EGG.vertices[0] + PLACE, atol=1e-4)
    with Image.open(output / 'walk.gif') as picture:
        assert (picture.n_frames, picture.info['loop']) == (2 * NUM_FRAMES - 2, 0)
    items = json.loads((output / 'manifest.json').read_text())['items']
    assert {name: (item['status'], item['frames']) for name, item in items.items()} == {
        'run.v2': ('done', 5), 'walk': ('done', 5),
    }  # fmt: skip
    quality = items['walk']['quality']
    assert 0 < quality['high'] < 0.01 * quality['longest_edge']
    page = (output / 'index.html').read_text()
    assert '"frames"' in page
    assert 'href="run.v2.glb"' in page


@pytest.mark.usefixtures('no_page')
def test_what_is_done_is_kept_until_a_frame_changes(clips, config, tmp_path, capsys):
    made = []

    def predict(inputs):
        made.append(1)
        return predict_egg(inputs)

    arguments = predicting(predict), {}, config, clips / 'walk', tmp_path / 'out'
    for _ in range(2):
        reconstruct_files(*arguments, 'ply')
    assert '1 of 1 inputs are done already' in capsys.readouterr().out
    np.savetxt(clips / 'walk' / '004.xyz', np.loadtxt(clips / 'walk' / '004.xyz'), fmt='%.8f')
    reconstruct_files(*arguments, 'ply')
    assert len(made) == 2
    reconstruct_files(*arguments, 'off')
    assert len(made) == 3
    assert (tmp_path / 'out' / 'walk' / '000.off').is_file()


@pytest.mark.usefixtures('no_page')
def test_other_kinds_of_sequences(clips, config, tmp_path):
    """Meshes that change, of which one is empty, and clouds; read again as they are."""
    meshes = [*frames_of(IN_OBJECT)[:4], trimesh.creation.icosphere(1, 0.3)]
    meshes[2] = trimesh.Trimesh()
    for kind, sequence in (('meshes', ChangingMeshes(tuple(meshes))), ('cloud', CloudSequence(IN_OBJECT.vertices))):
        output = tmp_path / kind
        method = predicting(lambda inputs, sequence=sequence: [sequence])
        (target,) = reconstruct_files(method, {}, config, clips / 'walk', output, 'ply')
        found = load_clip(target, NUM_FRAMES, 'ply')
        assert type(found) is type(sequence)
        for a, b in zip(frames_of(found), frames_of(sequence), strict=True):
            np.testing.assert_allclose(a.vertices, SCALE * 0.8 * b.vertices + PLACE, atol=1e-4)
        assert (output / 'walk' / '002.ply').is_file() == (kind == 'cloud')


@pytest.mark.usefixtures('no_page')
def test_two_clouds_are_interpolated(clips, config, tmp_path, capsys):
    with config.unlocked():
        config.data.inputs = ('end_clouds',)

    def predict(inputs):
        shares = np.linspace(0, 1, NUM_FRAMES)[:, None, None]
        return [CloudSequence((1 - shares) * first + shares * last) for first, last in inputs['end_clouds']]

    (target,) = reconstruct_files(predicting(predict), {}, config, clips / 'walk', tmp_path / 'out', 'ply')
    assert 'of 9 frames the network sees the first and the last' in capsys.readouterr().out
    assert load_clip(target, NUM_FRAMES, 'ply').points.shape == (NUM_FRAMES, 30, 3)


@pytest.mark.usefixtures('no_page')
@pytest.mark.parametrize('corresponding', [True, False])
def test_given_meshes_move_where_the_network_knows_no_shape(config, tmp_path, corresponding):
    """From the first to the last one, or, where these do not correspond, to where the network says."""
    with config.unlocked():
        config.data.update(inputs=('end_clouds',), corresponding=corresponding, num_input_points=2000)
    two = EGG._replace(vertices=SCALE * EGG.vertices[[0, -1]] + PLACE)
    save_frames(two, tmp_path / 'egg', 'off')
    method = predicting(lambda inputs: [CloudSequence(np.zeros((NUM_FRAMES, 30, 3)))])
    method = method._replace(model=make_egg_model(latent_size=0))
    (target,) = reconstruct_files(method, {}, config, tmp_path / 'egg', tmp_path / 'out', 'ply')
    found = load_clip(target, NUM_FRAMES, 'ply')
    assert len(found.faces) == len(EGG.faces)
    extents = [[f(frame, axis=0) for f in (np.min, np.max)] for frame in (*found.vertices[[0, -1]], *two.vertices)]
    np.testing.assert_allclose(extents[0], extents[2], atol=0.03)
    if corresponding:
        np.testing.assert_allclose(extents[1], extents[3], atol=1e-3)
    else:  # the stand-in only shifts
        np.testing.assert_allclose(
            found.vertices[-1] - found.vertices[0], np.broadcast_to([0, SCALE * 0.3, 0], (162, 3)), atol=0.1
        )


def test_a_video_is_seen_beside_what_is_made_of_it(config, tmp_path):
    (tmp_path / 'video').mkdir()
    for k in range(NUM_FRAMES):
        Image.new('RGB', (20, 20), (30 * k, 0, 0)).save(tmp_path / 'video' / f'{k:02d}.png')
    with config.unlocked():
        config.data.update(inputs=('image_clip',), image_size=8)
    reconstruct_files(predicting(lambda inputs: [IN_OBJECT]), {}, config, tmp_path / 'video', tmp_path / 'out', 'ply')
    page = (tmp_path / 'out' / 'index.html').read_text()
    assert 'alt="video: input" src="data:image/jpeg' in page
    assert '"frames"' in page


@pytest.mark.usefixtures('no_page')
def test_one_bad_sequence_does_not_stop_the_others(clips, config, tmp_path):
    (clips / 'walk' / '003.xyz').unlink()
    with pytest.raises(InputError, match=r'walk: expected frames .* number 3 is missing.* \(1 of 2 inputs failed'):
        reconstruct_files(predicting(predict_egg), {}, config, clips, tmp_path / 'out', 'ply')
    assert (tmp_path / 'out' / 'run.v2.glb').is_file()
    assert not (tmp_path / 'out' / 'walk').exists()
    nothing = MeshSequence(np.zeros((NUM_FRAMES, 0, 3)), np.zeros((0, 3), int))
    with pytest.raises(InputError, match=r'run.v2: the network finds nothing inside at threshold'):
        reconstruct_files(predicting(lambda inputs: [nothing]), {}, config, clips / 'run.v2', tmp_path / 'none', 'ply')


def test_no_frame_of_the_input_is_replaced_and_sequences_are_not_finished(clips, config, tmp_path):
    arguments = predicting(predict_egg), {}, config, clips
    with pytest.raises(
        InputError, match=r'run.v2: expected a new file, found the input .*run.v2; choose another --output'
    ):
        reconstruct_files(*arguments, clips, 'ply')
    with pytest.raises(InputError, match='--smooth, --simplify and --colors: expected a network of single shapes'):
        reconstruct_files(*arguments, tmp_path / 'out', 'ply', finish=Finish(smooth=1))
    (tmp_path / 'out' / 'walk').mkdir(parents=True)
    (tmp_path / 'out' / 'walk' / '001.ply').touch()
    with pytest.raises(
        InputError, match=r'walk/001.ply: expected a new file, found one that no reconstruction has written'
    ):
        reconstruct_files(*arguments, tmp_path / 'out', 'ply')


def test_a_sequence_fits_into_the_cube_at_all_times():
    frame = fit(IN_OBJECT, np.array([[3.0, 0, 0]]))
    points = np.concatenate([*map(frame.to_object, IN_OBJECT.vertices), frame.to_object(np.array([[3.0, 0, 0]]))])
    assert np.abs(points).max() == pytest.approx(0.5)
