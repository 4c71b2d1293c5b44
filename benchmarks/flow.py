"""A mesh that moves, by Occupancy Flow: extraction and 17 times, and the velocity field as a share of a matrix product.

The network of `configs/occupancy_flow.py`, untrained but for a decoder that is a ball: what it costs does not depend on what it
has learned, up to the number of steps of the solver, which is printed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report, time_alternately
from onet_jax import configs
from onet_jax.geometry.extract import extract_mesh
from onet_jax.models import occupancy_flow
from onet_jax.models.method import Compiled
from onet_jax.models.velocity_field import find_velocity, forwards, move_mesh

POINTS, PRODUCTS, FRAMES, STAGES = 20_000, 20, 17, 6


def main(variant: str = '', repeats: int = 5) -> None:
    keywords = configs.occupancy_flow(variant).model.to_dict()
    keywords.pop('name')
    hidden, blocks = keywords['velocity_hidden_size'], keywords['velocity_blocks']
    model = occupancy_flow.make_model(**keywords)
    flow, keys = model.pull_back.flow, jax.random.split(jax.random.key(0), 4)
    clip = 0.3 * jax.random.normal(keys[0], (1, FRAMES, 300, 3))
    params = model.init(keys[1], clip)
    cond, times = model.encode(params, clip), np.linspace(0, 1, FRAMES, dtype=np.float32)
    points = 0.3 * jax.random.normal(keys[2], (1, POINTS, 3))
    square = jax.random.normal(keys[3], (hidden, hidden))
    product, velocity = jax.jit(lambda a, b: a @ b), Compiled(find_velocity, flow)
    features = jnp.ones((4096, hidden))

    def ball(points):
        return 10 * (0.4 - jnp.linalg.norm(points, axis=-1)) + 0 * model.bind(params, cond)(points)

    mesh = extract_mesh(ball, resolution=32, upsampling_steps=2, threshold=0.5)
    path = jax.jit(forwards, static_argnums=0)(flow, params, points, jnp.asarray(times), cond)
    seconds = time_alternately(
        {
            'mesh': lambda: extract_mesh(ball, resolution=32, upsampling_steps=2, threshold=0.5).vertices,
            'frames': lambda: move_mesh(model, params, times, mesh, cond).vertices,
            'velocity': lambda: velocity(params, points, jnp.zeros(1), cond),
            'product': lambda: [product(features, square) for _ in range(PRODUCTS)],
        },
        repeats,
    )
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    field = POINTS * 2 * (2 * blocks * hidden * hidden + 7 * hidden) / seconds['velocity'] / 1e9
    matmul = PRODUCTS * 2 * len(features) * hidden * hidden / seconds['product'] / 1e9
    figures = {
        'sequence_seconds': median['mesh'] + median['frames'],
        'steps': int(path.num_steps[0]),
        'evaluations': 2 + STAGES * int(path.num_steps[0]),
        'velocity_gflops': float(np.median(field)),
        'share_of_matmul': float(np.median(field / matmul)),
    }
    report(
        f'a sequence of {FRAMES} meshes, occupancy_flow:{variant}',
        {'vertices': len(mesh.vertices), 'velocity hidden': hidden, 'blocks': blocks, 'repeats': repeats},
        [
            ('mesh at time 0, 32 -> 128', f'{median["mesh"]:.2f} s'),
            (f'its vertices at {FRAMES} times', f'{median["frames"]:.2f} s'),
            ('steps of the solver', f'{figures["steps"]}, {figures["evaluations"]} evaluations of the velocity field'),
            ('velocity field', f'{figures["velocity_gflops"]:.0f} GFLOP/s'),
            ('share of a product, median of the ratios', f'{figures["share_of_matmul"]:.2f}'),
        ],
        figures,
    )


if __name__ == '__main__':
    main()
