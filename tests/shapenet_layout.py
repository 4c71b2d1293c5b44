"""A small tree in the official ShapeNet layout, written with numpy alone."""

import io

import numpy as np
from PIL import Image

from onet_jax.geometry.voxels import Voxels, write_binvox

LOC, SCALE = np.array([0.3, -0.2, 0.1]), 1.5


def jpeg(mode='RGB', size=(8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(stream, 'JPEG')
    return stream.getvalue()


def points_of(num, dtype=np.float16):
    rng = np.random.default_rng(num)
    return rng.uniform(-0.55, 0.55, (num, 3)).astype(dtype), rng.random(num) < 0.3


def write_model(folder, num_points=100, num_surface=50, num_views=2, **changes):
    """A model as the official scripts write it, but for `changes` in the arrays of points.npz; returns what it holds."""
    folder.mkdir(parents=True)
    points, occ = points_of(num_points)
    surface, _ = points_of(num_surface)
    normals = (surface / np.linalg.norm(surface.astype(np.float32), axis=1, keepdims=True)).astype(np.float16)
    frame = {'loc': LOC, 'scale': np.float64(SCALE)}
    arrays = {'points': points, 'occupancies': np.packbits(occ), **frame, **changes}
    np.savez(folder / 'points.npz', **{key: value for key, value in arrays.items() if value is not None})
    np.savez(folder / 'pointcloud.npz', points=surface, normals=normals, **frame)
    voxels = np.random.default_rng(0).random((32, 32, 32)) < 0.5
    write_binvox(folder / 'model.binvox', Voxels(voxels, LOC, SCALE))
    cameras = np.random.default_rng(1).normal(size=(num_views, 3, 4))
    (folder / 'img_choy2016').mkdir()
    for i in range(num_views):
        (folder / f'img_choy2016/{i:03d}.jpg').write_bytes(jpeg('L' if i else 'RGB'))
    np.savez(
        folder / 'img_choy2016/cameras.npz',
        **{f'world_mat_{i}': cameras[i] for i in range(num_views)},
        **{f'camera_mat_{i}': cameras[i, :, :3] for i in range(num_views)},
    )
    return points, occ, surface, normals, voxels, cameras
