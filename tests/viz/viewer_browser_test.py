"""The viewer in headless Chromium: pictures that change with a slider, a box and a button, and a console without errors."""

import threading

import numpy as np
import pytest
import trimesh
from browser import Browser, wait_for

from onet_jax.geometry.sequences import MeshSequence
from onet_jax.viz.display import Display, Shown, Slider
from onet_jax.viz.pictures import Item

BALL = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
POINTS = np.asarray(BALL.vertices)
SEQUENCE = MeshSequence(np.stack([POINTS, POINTS * 0.5]), np.asarray(BALL.faces))
BLUE = 20  # of 255: how much more blue than red the pixels of a surface have


def make(level):
    ball = trimesh.Trimesh((1 - level) * POINTS, BALL.faces, process=False)
    return Shown(('surface', 'sequence'), [Item('ball', f'level {level:g}', (ball, SEQUENCE))])


def element(text):
    """JavaScript that finds the smallest element with a text."""
    return f'[...document.querySelectorAll("label, button, p")].findLast(e => e.innerText === {text!r})'


def size_of_surfaces(page):
    """How many pixels of the picture show a surface, in the left and the right half of what is beside the panel."""
    picture = page.picture()[:, :480].astype(int)
    blue = (picture[..., 2] - picture[..., 0] > BLUE) & (picture[..., 2] < 250)
    return blue[:, :240].sum(), blue[:, 240:].sum()


def settled(page):
    """The sizes, once two pictures in a row have the same."""
    seen = [size_of_surfaces(page)]

    def is_settled():
        seen.append(size_of_surfaces(page))
        return seen[-1] == seen[-2] and sum(seen[-1]) > 0

    wait_for(is_settled, f'expected a picture that stays, found the sizes {seen}')
    return seen[-1]


@pytest.mark.slow
def test_a_click_changes_the_picture(tmp_path):
    viewer_file = pytest.importorskip('onet_jax.viz.viewer')
    pytest.importorskip('viser')
    display = Display((Slider('level', 0.1, 0.9, 0.1, 0.1),), make)
    with viewer_file.Viewer('ball', port=0) as viewer:
        thread = threading.Thread(target=viewer.serve, args=(display,))
        thread.start()
        with Browser(viewer.link, tmp_path) as page:
            wait_for(lambda: 'level 0.1' in (page.evaluate('document.body.innerText') or ''))
            left, right = settled(page)
            assert min(left, right) > 1000

            # A click on the right half of the slider's track: another level, another mesh.
            x, y, width, height = page.box('document.querySelector(".mantine-Slider-track")')
            page.click(x + 0.75 * width, y + height / 2)
            wait_for(lambda: 'level 0.7' in page.evaluate('document.body.innerText'))
            wait_for(lambda: size_of_surfaces(page)[0] < left / 4, 'expected a smaller ball')
            assert size_of_surfaces(page)[1] > right / 2, 'the sequence stays'

            # The frames of the sequence play.
            x, y, width, height = page.box(element('Play'))
            page.click(x + width / 2, y + height / 2)
            sizes = []
            wait_for(lambda: sizes.append(size_of_surfaces(page)[1]) or min(sizes) < right / 2 < max(sizes))
            assert page.errors == []
        viewer.close()
        thread.join()
