"""Views of a ball whose colours are those of its place, in closed form, for tests; a stand-in for a dataset of them."""

from types import SimpleNamespace

import jax
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
    index = SimpleNamespace(num_input_views=0)

    def cameras(self, category, name):
        return sample_cameras(self.shapes.index((category, name)), NUM_VIEWS)

    def scored_fields(self, data):
        return ('views',)

    def examples(self, config, split, left_out=()):
        return dict(enumerate(self.shapes))

    def evaluation_batches(self, config, split, *, targets=None, batch_size=1, positions=None):
        chosen = list(range(len(self.shapes))) if positions is None else positions
        for start in range(0, len(chosen), batch_size):
            rows = chosen[start : start + batch_size]
            names = tuple(self.shapes[i] for i in rows)
            examples = [self.example(*name) for name in names]
            yield Examples(jax.tree.map(lambda *arrays: np.stack(arrays), *examples) | {'row': np.array(rows)}, names)

    def example(self, category, name):
        """Inputs and targets of a row."""
        camera = self.cameras(category, name)
        rgb, depth = draw_ball(camera, SIZE)
        to_small = np.diag([SIZE / VIEW_SIZE, SIZE / VIEW_SIZE, 1])
        inputs = {
            'image': rgb[0],
            'view_depth': depth[1:],
            'view_world_mat': camera.world_mat[1:],
            'view_camera_mat': (to_small @ camera.camera_mat)[1:],
        }
        return {'inputs': self.keep(inputs), 'targets': {'rgb': rgb[1:]}}

    def keep(self, inputs):
        return {name: array.astype(np.float32) for name, array in inputs.items()}

    def read(self, category, name):
        camera = self.cameras(category, name)
        first = Camera(*(array[:1] for array in camera))
        rgb, depth = (array[0] for array in draw_ball(first, VIEW_SIZE))
        pictures = {
            'image': np.round(255 * rgb).astype(np.uint8),
            'depth': np.round(depth * DEPTH_STEPS).astype(np.uint16),
        }
        stored = {key: (encode_picture(picture),) for key, picture in pictures.items()}
        unknown = dict.fromkeys(('points', 'occ', 'surface', 'normals', 'voxels', 'loc', 'scale'))
        return Shape(category, name, **unknown, **stored, **camera._asdict())
