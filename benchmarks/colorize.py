"""Seconds to colour a mesh with Texture Fields: its vertices, and a baked texture, beside a matrix product.

    python -m benchmarks.colorize [--vertices=30000] [--texture_size=1024]

The network of `configs/texture_field.py`, untrained: what it costs does not depend on what it has learned. Unwrapping by xatlas
is a part of the baking, and measured apart. Works alternate, so that a busy machine slows them alike.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from absl import flags

from benchmarks import report, time_alternately
from onet_jax import configs
from onet_jax.geometry.atlas import rasterise, unwrap
from onet_jax.geometry.painting import bake_texture, paint_vertices
from onet_jax.launch import run_command
from onet_jax.models import texture_field

VERTICES = flags.DEFINE_integer('vertices', 30_000, 'Vertices of the mesh, about.', lower_bound=100)
TEXTURE_SIZE = flags.DEFINE_integer('texture_size', 1024, 'Texels along each side of the texture.', lower_bound=16)
REPEATS = flags.DEFINE_integer('repeats', 3, 'Of each work.', lower_bound=1)
ROWS, PRODUCTS = 4096, 100


def count_cpu_seconds(work) -> float:
    """Those of all threads and of child processes."""
    before = os.times()
    jax.block_until_ready(work())
    return sum(os.times()[:4]) - sum(before[:4])


def main(_):
    keywords = configs.texture_field().model.to_dict()
    keywords.pop('name')
    model, key = texture_field.make_model(**keywords), jax.random.key(0)
    count = round((VERTICES.value / 4) ** 0.5)
    sphere = trimesh.creation.uv_sphere(0.5, count=[count, 2 * count])
    views = {
        'view_depth': jnp.ones((1, 1, 8, 8)),
        'image': jnp.zeros((1, 64, 64, 3)),
        'oriented_cloud': jnp.ones((1, 64, 6)),
    }
    views |= {'view_world_mat': jnp.ones((1, 1, 3, 4)), 'view_camera_mat': jnp.ones((1, 1, 3, 3))}
    params = model.init(key, views, jnp.ones((1, 1, 8, 8, 3)))
    cond = model.encode(params, views['image']), model.encode_geometry(params, views['oriented_cloud'])
    field = model.bind(params, cond[1], cond[0])

    def color(points):
        return field(points.astype(np.float32))

    size, width = TEXTURE_SIZE.value, keywords['decoder_hidden_size']
    rows, square = jnp.ones((ROWS, width)), jnp.ones((width, width))
    product = jax.jit(lambda a, b: a @ b)
    baked = bake_texture(sphere, color, size)
    num_texels = len(rasterise(baked.visual.uv[baked.faces], size).places)
    works = {
        'vertices': lambda: paint_vertices(sphere, color).vertices,
        'texture': lambda: bake_texture(sphere, color, size).vertices,
        'unwrapping': lambda: unwrap(sphere, size).uv,
        'product': lambda: [product(rows, square) for _ in range(PRODUCTS)],
    }
    seconds = time_alternately(works, REPEATS.value)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    cpu = {name: count_cpu_seconds(work) for name, work in works.items()}
    peak = PRODUCTS * 2 * ROWS * width**2 / seconds['product']
    operations = 2 * (7 * 2 * width**2 + 6 * width)  # of a point: 7 blocks, the first layer and the last
    shares = {
        name: float(np.median(num * operations / seconds[name] / peak))
        for name, num in (('vertices', len(sphere.vertices)), ('texture', num_texels))
    }
    figures = {f'{name}_seconds': value for name, value in median.items()}
    figures |= {f'{name}_cpu_seconds': value for name, value in cpu.items()}
    figures |= {f'{name}_share_of_product': value for name, value in shares.items()}
    report(
        'a mesh in colours',
        {'vertices': len(sphere.vertices), 'texels': num_texels, 'size': size, 'repeats': REPEATS.value},
        [
            *(
                (title, f'{median[name]:.2f} s, CPU {cpu[name]:.2f} s; share of a product {shares[name]:.2f}')
                for name, title in (('vertices', 'colours of vertices'), ('texture', 'baked texture'))
            ),
            ('  of it unwrapping', f'{median["unwrapping"]:.2f} s, CPU {cpu["unwrapping"]:.2f} s'),
            ('a matrix product', f'{np.median(peak) / 1e9:.0f} GFLOP/s'),
        ],
        figures,
    )


if __name__ == '__main__':
    run_command(main)
