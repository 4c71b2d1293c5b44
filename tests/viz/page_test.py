import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import trimesh
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.geometry.voxels import Voxels, voxels_to_mesh
from onet_jax.viz import page
from onet_jax.viz.page import embed, write_page
from onet_jax.viz.pictures import Item, Painted, render

pytestmark = pytest.mark.usefixtures('small_pictures')
BALL = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
LARGE = trimesh.creation.icosphere(subdivisions=5, radius=0.4)


@pytest.fixture(scope='module')
def html(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'index.html'
    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (100, 3))
    write_page(
        path,
        title='Chairs & <tables>',
        lead='Lead',
        summary={'IoU': '0.712'},
        table=(['category', 'IoU'], [['chair', '0.700'], ['a < b', '0.724']]),
        curves=[('loss', [(1, 100.0), (100, 2.0)], True)],
        items=[Item('chair 7', 'IoU 0.7', (cloud, BALL)), Item('mug 1', 'IoU 0', (cloud, trimesh.Trimesh()))],
        column_titles=('input', 'result'),
    )
    return path.read_text()


def test_the_page_asks_for_nothing_else(html):
    assert not re.findall(r'(?:src|href)\s*=\s*["\'](?!data:)', html)
    assert not re.findall(r'@import|url\(|fetch\(|XMLHttpRequest|https?://', html)
    assert 'Chairs &amp; &lt;tables&gt;' in html
    assert 'a &lt; b' in html

    class Balance(HTMLParser):
        depth = 0

        def handle_starttag(self, tag, attrs):
            self.depth += tag not in ('meta', 'img', 'input')

        def handle_endtag(self, tag):
            self.depth -= 1

        def handle_startendtag(self, tag, attrs):
            pass

    parser = Balance()
    parser.feed(html)
    assert parser.depth == 0


def test_the_shapes_of_the_page_are_those_that_were_given(html):
    content = re.search(r'<script type="application/json" id="shapes">(.*?)</script>', html, re.DOTALL).group(1)
    cloud, ball, _, empty = json.loads(content)
    assert 'faces' not in cloud
    assert cloud['count'] == 100
    levels = np.frombuffer(base64.b64decode(ball['positions']), '<u2').reshape(-1, 3)
    np.testing.assert_allclose((levels / 65535 * 2 - 1) * page.REACH, BALL.vertices, atol=1e-5)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(ball['faces']), '<u2').reshape(-1, 3), BALL.faces)
    assert empty['count'] == 0


def test_large_meshes_are_simplified_for_the_page():
    large = trimesh.creation.icosphere(subdivisions=6, radius=0.4)
    assert len(large.faces) > page.FACES[1]
    assert page.FACES[1] / 2 < embed(large)['count'] / 3 <= page.FACES[1]
    left = large.vertices[:, 0] < 0
    found = embed(Painted(large, np.where(left[:, None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)), 2000)
    positions, colours = (
        np.frombuffer(base64.b64decode(found[k]), t) for k, t in (('positions', '<u2'), ('colours', 'u1'))
    )
    red, x = colours.reshape(-1, 3)[:, 0] == 255, positions.reshape(-1, 3)[:, 0] / 65535 - 0.5
    assert (red[np.abs(x) > 0.02] == (x < 0)[np.abs(x) > 0.02]).all(), 'each vertex has the colour of the nearest one'
    wide = embed(trimesh.creation.icosphere(subdivisions=7, radius=0.4), 10**6)
    assert not wide['narrow']
    assert np.frombuffer(base64.b64decode(wide['faces']), '<u4').max() == 163_841


@pytest.mark.slow
def test_a_page_of_many_shapes_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(page, 'MAX_BYTES', 400_000)
    monkeypatch.setattr(page, 'render', lambda shape: render(shape, size=32))
    items = [Item(f'{i}', '', (np.random.default_rng(i).uniform(-0.5, 0.5, (9000, 3)), LARGE)) for i in range(6)]
    write_page(tmp_path / 'a.html', title='', lead='', summary={}, items=items, column_titles=('input', 'result'))
    assert 250_000 < (tmp_path / 'a.html').stat().st_size < 400_000


def test_every_kind_of_prediction_turns_on_the_page():
    values = np.ones((2, 2, 2), bool)
    assert embed(Voxels(values, np.zeros(3), 1.0)) == embed(voxels_to_mesh(values))
    assert embed(trimesh.PointCloud(BALL.vertices)) == embed(BALL.vertices)
    assert embed(OpenSurface(BALL.vertices, BALL.faces, process=False)) == embed(BALL)


def test_a_page_of_photos_has_neither_table_nor_curves(tmp_path):
    photo = np.full((30, 20, 3), (200, 30, 40), np.uint8)
    write_page(
        tmp_path / 'index.html',
        title='Photos',
        lead='Lead',
        summary={},
        items=[Item('a', 'OUTSIDE', (photo, BALL))],
        column_titles=('photo', 'result'),
    )
    html = (tmp_path / 'index.html').read_text()
    assert 'Training' not in html
    assert '<table>' not in html
    picture = re.search(r'<div class="tile"><img alt="a: photo" src="data:image/jpeg;base64,([^"]+)"', html).group(1)
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        np.testing.assert_allclose(image.getpixel((28, 28)), (200, 30, 40), atol=4)
    assert re.findall(r'data-shape="(\d+)"', html) == ['0'], 'only the mesh turns'
    shapes = re.search(r'id="shapes">(.*?)</script>', html, re.DOTALL).group(1)
    assert [shape['count'] for shape in json.loads(shapes)] == [3 * len(BALL.faces)]


def test_names_links_and_failures(tmp_path):
    rod = trimesh.creation.box((0.1, 1.0, 0.2))
    painted = Painted(rod, np.full((8, 3), 7, np.uint8))
    write_page(
        tmp_path / 'index.html',
        title='',
        lead='',
        summary={},
        items=[Item('a', '', (rod.vertices, rod, painted), links=(None, 'a b/<c>.ply', None))],
        column_titles=('input', 'result', 'painted'),
        notes={'result': 'what <it> is'},
        legend={'no point': (1.0, 0.5, 0.0)},
        failures={'b<': 'expected a cloud, found & none'},
    )
    html = (tmp_path / 'index.html').read_text()
    assert '<figcaption>result <a href="a%20b/%3Cc%3E.ply">ply</a></figcaption>' in html
    assert '<dt>result</dt><dd>what &lt;it&gt; is</dd>' in html
    assert '<dt>b&lt;</dt><dd>expected a cloud, found &amp; none</dd>' in html
    assert 'rgb(255,128,0)"></i>no point' in html
    for shape in json.loads(re.search(r'id="shapes">(.*?)</script>', html, re.DOTALL).group(1)):
        positions = np.frombuffer(base64.b64decode(shape['positions']), '<u2').reshape(-1, 3)
        extents = np.ptp(positions, axis=0) / 65535 * 2 * page.REACH
        np.testing.assert_allclose(extents, [0.1, 1.0, 0.2], atol=1e-3)
    with pytest.raises(InputError, match=r"item 'a': expected 3 links"):
        write_page(
            tmp_path / 'index.html',
            title='',
            lead='',
            summary={},
            items=[Item('a', '', (rod, rod, rod), links=('a',))],
            column_titles=('a', 'b', 'c'),
        )
