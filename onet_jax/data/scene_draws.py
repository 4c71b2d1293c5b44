"""Rays and colours of pixels of posed views: the fields of scenes. [...] any axes: none of a ray, H and W of a whole view."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax.geometry.cameras import Camera, rays
from onet_jax.geometry.volume_rendering import BACKGROUNDS, Rays, to_ndc


def draw_rays(key: jax.Array, row: dict, data: ConfigDict) -> dict[str, jax.Array]:
    """The ray through each pixel, in the frame of the scene. Its direction has length 1 along the axis of the camera."""
    camera, pixel = Camera(row['extrinsic'], row['intrinsic']), row['pixel'] + data.pixel_centre
    origins, directions = rays(camera, pixel.reshape(-1, 2))
    near, far = (
        jnp.full(len(origins), row['bounds'][i] if end == 0 else end) for i, end in enumerate((data.near, data.far))
    )
    view_directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    found = Rays(jnp.asarray(origins), directions, view_directions, near, far)
    if data.ndc:
        focal = jnp.broadcast_to(row['intrinsic'][0, 0], near.shape)
        extent = row['extent'].reshape(-1, 2)[0]
        found = to_ndc(found, focal, extent[1], extent[0])
    lead = row['pixel'].shape[:-1]
    return {name: part.reshape(*lead, *part.shape[1:]) for name, part in found._asdict().items()}


def draw_colours(key: jax.Array, row: dict, data: ConfigDict) -> dict[str, jax.Array]:
    """Colours of pixels in [0, 1], on the background where they are transparent."""
    rgba = row['rgba'].astype(jnp.float32) / 255
    return {'rgb': rgba[..., :3] + BACKGROUNDS[data.background] * (1 - rgba[..., 3:])}


def draw_picture(key: jax.Array, row: dict, data: ConfigDict) -> dict[str, jax.Array]:
    """The colours of all pixels of a view, as a picture of one view [1, H, W, 3]."""
    return {'picture': draw_colours(key, row, data)['rgb'][None]}
