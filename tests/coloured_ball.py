"""Views of a ball whose colours are those of its place, in closed form, for tests; a stand-in for a dataset of them."""

import numpy as np

from onet_jax.data.datasets import Examples
from onet_jax.data.records import Shape, encode_picture
from onet_jax.data.schema import DEPTH_STEPS, VIEW_SIZE
from onet_jax.geometry.cameras import Camera, rays, sample_cameras

RADIUS, NUM_VIEWS, SIZE = 0.3, 5, 24


def colours_at(points):
    """sRGB of places [..., 3] of the surface."""
    return 0.5 + points


def draw_ball(camera, size):
    """Colours [V, S, S, 3] on white and depth [V, S, S], 0 in the background; of cameras of 137 px."""
    centres = (np.arange(size) + 0.5) * VIEW_SIZE / size
    pixels = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(1, -1, 2).repeat(len(camera.world_mat), axis=0)
    eyes, directions = rays(camera, pixels)
    a, b, c = (np.sum(x * y, axis=-1) for x, y in ((directions, directions), (eyes, directions), (eyes, eyes)))
    root = b * b - a * (c - RADIUS**2)
    depth = np.where(root > 0, (-b - np.sqrt(root.clip(0))) / a, 0)
    rgb = np.where(depth[..., None] > 0, colours_at(eyes + depth[..., None] * directions), 1)
    return rgb.reshape(-1, size, size, 3), depth.reshape(-1, size, size)


class BallDataset:
    """Two categories of balls, each seen by cameras of its own; the first view is the input."""

    shapes = (('ball', 'a'), ('ball', 'b'), ('other', 'a'))

    def cameras(self, category, name):
        return sample_cameras(self.shapes.index((category, name)), NUM_VIEWS)

    def scored_fields(self, data):
        return ('views',)

    def examples(self, config, split):
        return dict(enumerate(self.shapes))

    def evaluation_batches(self, config, split, *, targets=None, batch_size=None, positions=None):
        for row, shape in enumerate(self.shapes):
            camera = self.cameras(*shape)
            rgb, depth = draw_ball(camera, SIZE)
            to_small = np.diag([SIZE / VIEW_SIZE, SIZE / VIEW_SIZE, 1])
            inputs = {
                'image': rgb[:1],
                'view_depth': depth[None, 1:],
                'view_world_mat': camera.world_mat[None, 1:],
                'view_camera_mat': (to_small @ camera.camera_mat)[None, 1:],
            }
            batch = {'inputs': inputs, 'targets': {'rgb': rgb[None, 1:]}, 'row': np.array([row])}
            yield Examples({**batch, 'inputs': self.keep(inputs)}, (shape,))

    def keep(self, inputs):
        return {name: array.astype(np.float32) for name, array in inputs.items()}

    def read(self, category, name):
        camera = self.cameras(category, name)
        first = Camera(*(array[:1] for array in camera))
        rgb, depth = (array[0] for array in draw_ball(first, VIEW_SIZE))
        pictures = {
            'image': np.round(255 * rgb).astype(np.uint8),
            'alpha': 255 * (depth > 0).astype(np.uint8),
            'depth': np.round(depth * DEPTH_STEPS).astype(np.uint16),
        }
        stored = {key: (encode_picture(picture),) for key, picture in pictures.items()}
        unknown = dict.fromkeys(('points', 'occ', 'surface', 'normals', 'voxels', 'loc', 'scale'))
        return Shape(category, name, **unknown, **stored, **camera._asdict())
