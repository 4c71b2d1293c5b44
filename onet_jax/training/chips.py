"""Accelerators: peak FLOP/s, memory and links of TPUs and GPUs by their makers, and a model of the time of an all-reduce.

Peak FLOP/s is that of matrix products as JAX runs them on float32 arrays by default: in bfloat16 on TPUs, in TF32 on GPUs.

v4    cloud.google.com/tpu/docs/v4; links: Jouppi et al., "TPU v4" (ISCA 2023), six of 50 GB/s
v5e   cloud.google.com/tpu/docs/v5e
v5p   cloud.google.com/tpu/docs/v5p
v6e   cloud.google.com/tpu/docs/v6e
A100, H100    data sheets of A100, H100 and DGX: NVLink in a machine of eight, HDR or NDR InfiniBand between machines

The makers count both directions of a link; here one counts. The memory of a TPU is what its compiler (libtpu 0.0.42) allows a
program. Clocks of TPUs follow from their peaks: a matrix unit of 128 x 128 (v6e: 256 x 256) makes as many multiply-adds in a
cycle, and a chip has eight, four, eight and four of them. The axes of a slice are rings where they are whole multiples of
`ring` chips (the documents above; jax-ml.github.io/scaling-book/tpus), else lines.

n chips.
"""

import math
from typing import NamedTuple

GIB = 1 << 30


class Chip(NamedTuple):
    """Public figures of one chip."""

    flops: float  # a second, of matrix products
    memory: float  # bytes
    bandwidth: float  # bytes a second, of the memory
    clock: float  # cycles a second, in which the compiler of TPUs counts; 0: it does not
    link: float  # bytes a second, one way, of all fast links of a chip
    latency: float  # s, of a message between neighbours; assumed
    group: int  # chips that the fast links join
    between: float  # bytes a second, one way, of a chip's part of the network between groups; 0: not known
    num_axes: int  # of the mesh or torus of the fast links; 0: they are switched
    ring: int  # see above


CHIPS = {
    'v4': Chip(275e12, 30.75 * GIB, 1.2e12, 1.05e9, 300e9, 1e-6, 4096, 0, 3, 4),
    'v5e': Chip(197e12, 15.75 * GIB, 819e9, 1.5e9, 200e9, 1e-6, 256, 3.1e9, 2, 16),
    'v5p': Chip(459e12, 95.74 * GIB, 2.765e12, 1.75e9, 600e9, 1e-6, 8960, 6.2e9, 3, 4),
    'v6e': Chip(918e12, 31.25 * GIB, 1.64e12, 1.75e9, 400e9, 1e-6, 256, 12.5e9, 2, 16),
    'A100': Chip(156e12, 80e9, 2.04e12, 0, 300e9, 3e-6, 8, 200e9, 0, 0),
    'H100': Chip(495e12, 80e9, 3.35e12, 0, 450e9, 3e-6, 8, 400e9, 0, 0),
}


def slice_shape(chip: Chip, num_chips: int) -> tuple[int, ...]:
    """The chips along each axis of a slice of n chips, a power of two, as nearly equal as can be; (n,) for switched links."""
    if not chip.num_axes:
        return (num_chips,)
    power = num_chips.bit_length() - 1
    return tuple(1 << (power + i) // chip.num_axes for i in range(chip.num_axes))


def all_reduce_seconds(chip: Chip, shape: tuple[int, ...], num_bytes: float, num_messages: int = 1) -> float:
    """The time of all-reduces of so many bytes together, in `num_messages` of them, over a slice (`slice_shape`).

    By links each chip sends and receives 2 (n - 1) / n of the bytes, over all links at once where they form a torus: this is
    what XLA compiles for large arrays. An axis that is a line has half of the bandwidth of a ring, as its last chips have one
    link. A message passes the diameter of the slice.
    """
    num_chips = math.prod(shape)
    if num_chips == 1:
        return 0.0
    share = 2 * (num_chips - 1) / num_chips
    if not chip.num_axes:
        bandwidth = chip.link if num_chips <= chip.group else chip.between
        hops = 2 * math.ceil(math.log2(num_chips))
    else:
        axes = [(length, length % chip.ring == 0) for length in shape if length > 1]
        bandwidth = chip.link / chip.num_axes * sum(1.0 if ring else 0.5 for _, ring in axes)
        hops = sum(length // 2 if ring else length - 1 for length, ring in axes)
    return share * num_bytes / bandwidth + num_messages * hops * chip.latency
