"""The mesh of a scene: of a density that is known in closed form, with haze around it as training leaves it."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.configs import nerf as nerf_config
from onet_jax.data.datasets import open_dataset
from onet_jax.errors import InputError
from onet_jax.inference.scene_mesh import choose_level, scene_mesh
from onet_jax.prepare.embedded_scene import render_scene

RADIUS, PEAK = 0.7, 30.0


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'scene'
    render_scene(folder, num_views=18, size=24, seed=0)
    return open_dataset(folder)


@pytest.fixture(scope='module')
def config():
    config = nerf_config('tiny')
    config.data.downscale = 1.0
    return config


def ball(peak, haze=0.1):
    """A ball with a soft edge, a speck beside it, and haze that grows towards the cameras."""

    def density(params, points):
        distance, beside = jnp.linalg.norm(points, axis=1), jnp.linalg.norm(points - jnp.array([0.9, 0.6, 0.0]), axis=1)
        inside = peak / (1 + jnp.exp((distance - RADIUS) / 0.02))
        return inside + jnp.where(beside < 0.04, peak, 0) + haze * jnp.clip(distance - RADIUS, 0, 1)

    return SimpleNamespace(
        density=density,
        radiance=lambda params, points, directions: (jnp.full_like(points, 0.2), density(params, points)),
    )


@pytest.mark.slow
@pytest.mark.parametrize('peak', [12.0, 300.0])
def test_the_surface_is_where_rays_end_however_dense_it_is(scene, config, peak):
    mesh, level = scene_mesh(ball(peak), {}, config, scene, 16, 1)
    assert 0.1 < level < peak
    distances = np.linalg.norm(mesh.vertices, axis=1)
    # Half of the light is absorbed before a dense ball is at half of its density.
    assert np.abs(distances - RADIUS).max() < 0.09, 'no haze, and no speck'
    assert mesh.is_watertight
    assert (mesh.visual.vertex_colors == [51, 51, 51, 255]).all()


def test_a_scene_without_a_surface_is_refused(scene, config):
    with pytest.raises(InputError, match=r'expected rays that meet a surface \(opacity above 0.9\), found none'):
        scene_mesh(ball(0.01, haze=0.01), {}, config, scene, 16, 1)
    config = config.copy_and_resolve_references()
    config.data.ndc = True
    with pytest.raises(InputError, match=r'config.data.ndc: expected a scene in world coordinates'):
        scene_mesh(ball(PEAK), {}, config, scene, 16, 1)


def test_the_level_lies_between_what_is_empty_and_what_absorbs():
    """Rays through a slab of density 10 that begins at sample 30, in haze of 0.5; and rays through haze alone."""
    density = np.full((20, 100), 0.5)
    density[:10, 30:] = 10
    density[:10, 28:30] = 2
    left = np.exp(-0.02 * np.cumsum(density, axis=1))
    left[10:] = 1
    assert 2 <= choose_level(density, left) < 10
