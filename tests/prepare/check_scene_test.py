"""Posed pictures are looked at before a training."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from onet_jax.prepare.check_scene import check_scene, draw_scene
from onet_jax.prepare.embedded_scene import render_scene


@pytest.fixture(scope='module')
def scene_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'scene'
    render_scene(folder, num_views=20, size=12, seed=0)
    return folder


def change(scene_dir, folder, pose=lambda matrix: matrix, picture=lambda image: image):
    shutil.copytree(scene_dir, folder)
    for file in folder.glob('transforms_*.json'):
        content = json.loads(file.read_text())
        for frame in content['frames']:
            frame['transform_matrix'] = pose(np.array(frame['transform_matrix'])).tolist()
        file.write_text(json.dumps(content))
    for file in folder.glob('*/*.png'):
        with Image.open(file) as image:
            changed = picture(image.copy())
        changed.save(file)
    return check_scene(folder).hints


def test_a_good_scene_has_a_table_and_no_hints(scene_dir, tmp_path):
    found = check_scene(scene_dir)
    assert found.hints == []
    assert [row[:3] for row in found.rows] == [
        ['train', '4', '12 x 12'], ['val', '8', '12 x 12'], ['test', '8', '12 x 12']
    ]  # fmt: skip
    draw_scene(scene_dir, tmp_path / 'cameras.png')
    with Image.open(tmp_path / 'cameras.png') as image:
        pixels = np.asarray(image.convert('RGB')).reshape(-1, 3)
    assert all((pixels == rgb).all(axis=1).any() for rgb in ([45, 119, 181], [224, 138, 30], [200, 55, 45]))


def test_what_looks_wrong_is_said(scene_dir, tmp_path):
    turned = change(scene_dir, tmp_path / 'a', pose=lambda matrix: matrix @ np.diag([1, -1, -1, 1]))
    assert '100% of the cameras look away' in turned[0]
    assert 'probably right, down, forward' in turned[0]
    far = change(scene_dir, tmp_path / 'b', pose=move_away)
    assert '12 before them, is not between near and far (2 and 6) of 100% of the views' in far[0]

    def on_white(image):
        white = Image.new('RGBA', image.size, 'white')
        white.alpha_composite(image)
        return white.convert('RGB')

    (white,) = change(scene_dir, tmp_path / 'c', picture=on_white)
    assert 'no alpha and a background that is white' in white
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    (photo,) = change(scene_dir, tmp_path / 'd', picture=lambda image: Image.fromarray(noise))
    assert 'what is behind the object is part of the scene' in photo
    (clear,) = change(scene_dir, tmp_path / 'e', picture=lambda image: Image.new('RGBA', image.size, (0, 0, 0, 0)))
    assert clear == 'the pictures are transparent everywhere'


def move_away(matrix):
    matrix[:3, 3] *= 3
    return matrix
