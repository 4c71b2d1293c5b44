"""Baselines of texture prediction: what the input picture alone says of the colours of other views of the same shape.

They know the true depth of the views, as the network does, and the depth of the input picture too, which it does not.
V views, S pixels along each side.
"""

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from onet_jax.data.records import Shape, decode_views
from onet_jax.data.schema import DEPTH_STEPS
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.views import Pictures, unproject_depth

MEAN, NEAREST = (
    'mean colour of the object in the input picture',
    'colour of the nearest point that the input picture shows',
)


def predict_from_input(shape: Shape, path: str, inputs: dict[str, np.ndarray]) -> dict[str, Pictures]:
    """The pictures of both baselines, by their names.

    shape: as stored, whose first view is the input picture; path: of its file, for messages; inputs: 'view_depth' [V, S, S],
    'view_world_mat' [V, 3, 4] and 'view_camera_mat' [V, 3, 3] of the views. Colours are of pixels that have no background
    beside them, if there are any: it is mixed into the others. Raises InputError for a damaged picture, and for one that shows
    nothing.
    """
    image, depth = (decode_views(path, name, getattr(shape, name)[:1])[0] for name in ('image', 'depth'))
    camera = Camera(shape.world_mat[0], shape.camera_mat[0])
    inner = binary_erosion(depth > 0)
    seen = inner if inner.any() else depth > 0
    if not seen.any():
        raise InputError(
            f'{path}: expected a first view that shows the shape, found background alone; prepare it again'
        )
    colours = (image[seen] / np.float32(255)).astype(np.float32)
    surface = cKDTree(unproject_depth(camera, depth / DEPTH_STEPS)[seen])

    shown = inputs['view_depth'] > 0
    points = unproject_depth(Camera(inputs['view_world_mat'], inputs['view_camera_mat']), inputs['view_depth'])[shown]
    _, nearest = surface.query(points)
    mean, copied = (np.ones((*shown.shape, 3), np.float32) for _ in range(2))
    mean[shown], copied[shown] = colours.mean(axis=0), colours[nearest]
    return {MEAN: Pictures(mean), NEAREST: Pictures(copied)}
