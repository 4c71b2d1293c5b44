"""Sequences on the page."""

import base64
import json
import re

import numpy as np
import pytest
import trimesh
from moving_shapes import NUM_FRAMES, moving_egg

from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, frames_of, move
from onet_jax.viz import page
from onet_jax.viz.page import embed, write_page
from onet_jax.viz.pictures import Item

pytestmark = pytest.mark.usefixtures('small_pictures')

EGG = move(moving_egg(subdivisions=3), lambda points: points - np.array([0, 0.15, 0]))
CHANGING = ChangingMeshes((*frames_of(EGG)[:2], trimesh.Trimesh(), *frames_of(EGG)[3:]))


def positions_of(frame):
    levels = np.frombuffer(base64.b64decode(frame['positions']), '<u2').reshape(-1, 3)
    return (levels / 65535 * 2 - 1) * page.REACH


def test_the_frames_of_a_mesh_have_its_faces_once():
    found = embed(EGG)
    assert {*found} == {'positions', 'faces', 'narrow', 'count', 'frames'}
    assert [{*frame} for frame in found['frames']] == [{'positions'}] * NUM_FRAMES
    for frame, vertices in zip(found['frames'], EGG.vertices, strict=True):
        np.testing.assert_allclose(positions_of(frame), vertices, atol=1e-5)


def test_a_mesh_with_many_faces_moves_on_with_fewer():
    found = embed(EGG, 500)
    assert 400 < found['count'] / 3 <= 500
    faces = np.frombuffer(base64.b64decode(found['faces']), '<u2').reshape(-1, 3)
    volumes = [trimesh.Trimesh(positions_of(frame), faces).volume for frame in found['frames']]
    np.testing.assert_allclose(volumes, EGG.mesh(0).volume, rtol=0.03)


def test_meshes_without_common_faces_have_their_own_and_clouds_none():
    found = embed(CHANGING)
    assert [frame['count'] for frame in found['frames']] == [3840, 3840, 0, 3840, 3840]
    assert found['count'] == 3840
    cloud = embed(CloudSequence(EGG.vertices), num_points=100)
    assert all('positions' not in shape for shape in (found, cloud)), 'nothing to blend'
    assert (cloud['count'], len(cloud['frames'])) == (100, NUM_FRAMES)
    first, last = (positions_of(cloud['frames'][k]) for k in (0, -1))
    chosen = np.linspace(0, len(EGG.vertices[0]) - 1, 100).astype(int)
    np.testing.assert_allclose(first, EGG.vertices[0, chosen], atol=1e-5)
    np.testing.assert_allclose(last, EGG.vertices[-1, chosen], atol=1e-5, err_msg='the same points in all frames')


def test_a_page_of_sequences_keeps_its_size_and_draws_their_first_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'FACES', (50, 60_000))
    monkeypatch.setattr(page, 'MAX_BYTES', 90_000)
    path, items = tmp_path / 'index.html', [Item('a', '', (EGG, CHANGING))]
    write_page(path, title='t', lead='', summary={}, items=items, column_titles=('one', 'other'))
    content = path.read_text()
    assert 50_000 < len(content) < 95_000
    shapes = json.loads(re.search(r'id="shapes">(.*?)</script>', content, re.DOTALL)[1])
    assert [len(shape['frames']) for shape in shapes] == [NUM_FRAMES] * 2
    assert content.count('src="data:image/png') == 2
    assert 'id="playing"' in content
