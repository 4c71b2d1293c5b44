"""Rays a second of NeRF, in training and in rendering, as a share of a matrix product and beside PyTorch where it is installed.

    python -m benchmarks.nerf [--variant=tiny] [--num_rays=1024]

The same weights, rays and settings in both; forward and loss are compared before anything is timed. The times alternate.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from benchmarks import report, time_alternately
from onet_jax import configs
from onet_jax.convert import official
from onet_jax.convert.names import NERF
from onet_jax.geometry.volume_rendering import Rays
from onet_jax.models import nerf

VARIANT = flags.DEFINE_string('variant', 'tiny', 'Of configs/nerf.py.')
NUM_RAYS = flags.DEFINE_integer('num_rays', 1024, 'Of a step, and of a rendered picture.')
REPEATS = flags.DEFINE_integer('repeats', 7, 'Alternating measurements.')
SIZE, PRODUCTS = 1500, 3


def make_rays(num_rays: int) -> Rays:
    rng = np.random.default_rng(0)
    eyes = rng.normal(size=(num_rays, 3))
    eyes = 4 * eyes / np.linalg.norm(eyes, axis=-1, keepdims=True)
    directions = -eyes / 4 + 0.1 * rng.normal(size=(num_rays, 3))
    view = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    ends = np.ones(num_rays)
    return Rays(*(np.asarray(part, np.float32) for part in (eyes, directions, view, 2 * ends, 6 * ends)))


def count_operations(keywords: dict) -> float:
    """Of one point, forwards: multiplications and additions of the matrix products."""
    seen, towards = 3 + 6 * keywords['num_frequencies'], 3 + 6 * keywords['num_direction_frequencies']
    width, bottleneck = keywords['width'], keywords['bottleneck_size']
    trunk = seen * width + sum(
        (width + seen * (i in keywords['skips'])) * width for i in range(keywords['depth'] - 1)
    )  # fmt: skip
    return 2 * (trunk + width * (1 + bottleneck) + (bottleneck + towards) * width // 2 + 3 * width // 2)


def main(_):
    keywords = configs.nerf(VARIANT.value).model.to_dict()
    keywords.pop('name')
    model, rays, num_rays = nerf.make_model(**keywords), make_rays(NUM_RAYS.value), NUM_RAYS.value
    rgb, key = np.full((num_rays, 3), 0.5, np.float32), jax.random.key(0)
    params = model.init(key, rays)
    tx = optax.adam(5e-4)

    @jax.jit
    def step(weights, state, key):
        (loss, _), grads = jax.value_and_grad(
            lambda weights: model.loss({'params': weights}, rays, rgb, key), has_aux=True
        )(weights)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(weights, updates), state, loss

    state = tx.init(params['params'])
    square, product = jnp.ones((SIZE, SIZE)), jax.jit(lambda a: a @ a)
    works = {
        'train': lambda: step(params['params'], state, key),
        'render': lambda: model.render(params, rays).rgb,
        'product': lambda: [product(square) for _ in range(PRODUCTS)],
    }
    if importlib.util.find_spec('torch'):
        import torch

        from benchmarks import torch_nerf

        weights = official.write_weights({'params': params['params']}, {'coarse': NERF, 'fine': NERF})
        fields = torch_nerf.load_fields(keywords, weights)
        inputs, target = tuple(torch.from_numpy(part) for part in rays), torch.from_numpy(rgb)
        even = torch.linspace(0, 1, keywords['num_fine_samples']).expand(num_rays, -1)

        def render_torch():
            with torch.no_grad():
                return torch_nerf.render(fields, keywords, inputs, None, even)[1].numpy()

        difference = np.abs(render_torch() - model.render(params, rays).rgb).max()
        assert difference < 1e-3, f'PyTorch renders other colours: {difference}'
        works |= {'train_torch': torch_nerf.make_step(fields, keywords, inputs, target), 'render_torch': render_torch}
    seconds = time_alternately(works, REPEATS.value)
    points = 2 * keywords['num_samples'] + keywords['num_fine_samples']
    flops = num_rays * points * count_operations(keywords)
    matmul = PRODUCTS * 2 * SIZE**3 / seconds['product']
    figures, rows = {'matmul_gflops': float(np.median(matmul) / 1e9)}, []
    for name, factor in (('train', 3), ('render', 1)):
        share = factor * flops / seconds[name] / matmul
        figures |= {
            f'{name}_rays_a_second': float(np.median(num_rays / seconds[name])),
            f'{name}_share_of_matmul': float(np.median(share)),
        }
        rows.append(
            (name, f'{figures[f"{name}_rays_a_second"]:.0f} rays/s, {np.median(share):.2f} of a matrix product')
        )
        if f'{name}_torch' in seconds:
            ratio = float(np.median(seconds[f'{name}_torch'] / seconds[name]))
            figures[f'{name}_speed_of_torch'] = ratio
            rows.append((f'{name}, speed of PyTorch', f'{ratio:.2f} times'))
    settings = {'rays': num_rays, 'samples': points, 'repeats': REPEATS.value}
    report(f'NeRF, nerf:{VARIANT.value}', settings, rows, figures)


if __name__ == '__main__':
    app.run(main)
