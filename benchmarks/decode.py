"""Points per second of `occupancy` for the paper's decoder, as a share of a plain matrix product in the same run.

The decoder is ten products [T, 256] x [256, 256] and little else; the share says how much is lost to that little.
"""

import jax
import numpy as np

from benchmarks import report, time_alternately
from onet_jax.models import onet
from onet_jax.models.occupancy import DECODED_POINTS

NUM_POINTS, HIDDEN, COND, ROWS, PRODUCTS = 100_000, 256, 256, 4096, 20


def main(repeats: int = 9) -> None:
    model = onet.make_model(cond_size=COND, decoder_hidden_size=HIDDEN)
    keys = jax.random.split(jax.random.key(0), 5)
    points = jax.random.uniform(keys[0], (1, NUM_POINTS, 3), minval=-0.55, maxval=0.55)
    cond = jax.random.normal(keys[1], (1, COND))
    params = model.init(keys[2], points[:, :300])
    left, right = jax.random.normal(keys[3], (ROWS, HIDDEN)), jax.random.normal(keys[4], (HIDDEN, HIDDEN))
    product = jax.jit(lambda a, b: a @ b)

    seconds = time_alternately(
        {
            'occupancy': lambda: model.occupancy(params, points, cond),
            'product': lambda: [product(left, right) for _ in range(PRODUCTS)],
        },
        repeats,
    )
    decode = NUM_POINTS * 10 * 2 * HIDDEN * HIDDEN / seconds['occupancy'] / 1e9
    matmul = PRODUCTS * 2 * ROWS * HIDDEN * HIDDEN / seconds['product'] / 1e9
    figures = {
        'points_per_second': NUM_POINTS / float(np.median(seconds['occupancy'])),
        'decode_gflops': float(np.median(decode)),
        'matmul_gflops': float(np.median(matmul)),
        'share_of_matmul': float(np.median(decode / matmul)),
    }
    report(
        'occupancy of the paper decoder, float32',
        {'points': NUM_POINTS, 'hidden': HIDDEN, 'cond': COND, 'chunk': DECODED_POINTS, 'repeats': repeats},
        [
            ('points per second', f'{figures["points_per_second"]:,.0f}'),
            ('occupancy', f'{figures["decode_gflops"]:.0f} GFLOP/s'),
            (f'product [{ROWS},{HIDDEN}]x[{HIDDEN},{HIDDEN}]', f'{figures["matmul_gflops"]:.0f} GFLOP/s'),
            ('share, median of the ratios', f'{figures["share_of_matmul"]:.2f}'),
        ],
        figures,
    )


if __name__ == '__main__':
    main()
