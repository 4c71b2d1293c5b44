"""MISE and marching cubes as compiled programs: isosurface extraction of a batch of shapes on an accelerator.

Compiled programs have arrays of fixed size. So MISE works on masks of the whole lattice, where `mise.py` on the host has lists
of points. A mask becomes a list by stream compaction: its j-th True is where the prefix sum of the mask reaches j, which is
found by binary search.

A batch of fields is one callable pytree, e.g. jax.tree_util.Partial(f, codes): its arrays have a leading axis B, and row b of
all of them is the field of shape b, [T, 3] object coordinates -> [T]. Values and level are float32.

B shapes, R finest cells along an axis, T query points, N vertices or points, F faces. XLA plans 17 bytes for each of the
B (R + 1)^3 points in MISE (2.3 GB at B = 64 and R = 128), and 27 for each point of one shape in marching cubes. On a TPU, whose
tiles pad an axis of 129 points to 256, MISE takes four times as much. B (R + 1)^3 has to be below 2^31.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.field import bucket_size, check_finite, checked_call
from onet_jax.geometry.grid import CORNERS, any_of_eight, finest_cells, lattice_to_world, world_to_lattice
from onet_jax.geometry.marching_cubes_cases import BITS, FACES, MIN_SHARE, NUM_FACES

# Points of one evaluation: enough to fill an accelerator, few compared with those of a shape in a round.
MISE_CHUNK = 8192
PAD_VALUE = -1e30  # around the box: a surface that reaches the box is closed there


class Grids(NamedTuple):
    """Values on the finest lattices of B shapes, and their cost."""

    values: jax.Array  # [B, R + 1, R + 1, R + 1]; unqueried points hold the value of a known neighbour
    queried: jax.Array  # [B] int32, number of points at which the field was evaluated
    non_finite: jax.Array  # [B] int32, number of points at which it was not finite; they hold -inf


class Triangles(NamedTuple):
    """A surface in arrays of fixed size, padded with zeros. It is complete unless a number exceeds the size of its array."""

    vertices: jax.Array  # [capacity, 3] object coordinates
    faces: jax.Array  # [2 capacity, 3] int32, counterclockwise seen from outside
    num_vertices: jax.Array  # int32, of the whole surface, whatever the capacity
    num_faces: jax.Array


def extract_meshes(
    field: Callable,
    num_shapes: int,
    *,
    resolution: int = 32,
    upsampling_steps: int = 2,
    threshold: float = 0.2,
    seeds: np.ndarray | None = None,
) -> list[trimesh.Trimesh]:
    """`extract.extract_mesh` for a batch: the B surfaces on which sigmoid(field) equals `threshold`.

    seeds: [B, N, 3], points near each surface. Meshes are closed, oriented outwards and in object coordinates; a mesh has no
    vertices where nothing is inside. upsampling_steps = 0 means a dense grid of `resolution` points, not cells. Sizes of arrays
    are powers of two, so that few programs are compiled: the first is a guess; where it is too small, the second is what the
    counts of the first ask for. Raises InputError for a threshold outside of (0, 1) and for values that are not finite.
    """
    level = threshold_to_logit(threshold)
    if finest_cells(resolution, upsampling_steps) < 2:
        raise InputError(f'resolution: expected at least 2, found {resolution}')
    if seeds is not None:
        if np.ndim(seeds) != 3 or len(seeds) != num_shapes or np.shape(seeds)[2] != 3:
            raise InputError(f'seeds: expected an array [{num_shapes}, N, 3], found the shape {list(np.shape(seeds))}')
        check_finite(np.asarray(seeds), 'seeds')
    if upsampling_steps == 0:
        resolution -= 1
    grids = multiresolution_grids(
        field, num_shapes, resolution=resolution, upsampling_steps=upsampling_steps, level=level, seeds=seeds
    )
    num_bad = np.asarray(grids.non_finite)
    if num_bad.any():
        raise InputError(
            f'field: expected finite numbers, found {num_bad.sum()} of {grids.queried.sum()} not finite, '
            f'in the shapes {np.flatnonzero(num_bad).tolist()}'
        )
    capacity = first_capacity(finest_cells(resolution, upsampling_steps))
    while True:
        triangles = march_each(grids.values, level, capacity)
        num_vertices, num_faces = jax.device_get((triangles.num_vertices, triangles.num_faces))
        needed = bucket_size(max(num_vertices.max(), -(-num_faces.max() // 2)))
        if needed <= capacity:
            break
        capacity = needed
    # Cut to the rounded size of the largest surface: a slice of every exact size would be compiled anew.
    vertices, faces = jax.device_get((triangles.vertices[:, :needed], triangles.faces[:, : 2 * needed]))
    return [
        trimesh.Trimesh(vertices[b, :v], faces[b, :f], process=False) if f else trimesh.Trimesh()
        for b, (v, f) in enumerate(zip(num_vertices, num_faces, strict=True))
    ]


def first_capacity(num_cells: int) -> int:
    """The capacity of `marching_cubes` to begin with: a sphere as large as the box crosses about 4 R^2 edges of the lattice."""
    return bucket_size(4 * num_cells**2)


@partial(jax.jit, static_argnames=('num_shapes', 'resolution', 'upsampling_steps'))
def multiresolution_grids(
    field: Callable,
    num_shapes: int,
    *,
    resolution: int,
    upsampling_steps: int,
    level: float,
    seeds: jax.Array | None = None,
) -> Grids:
    """MISE (see `mise.py`) for B shapes at once: it evaluates the same points and gives the same grids.

    The shapes go through the rounds together, until none has a point to evaluate. A round costs the evaluation of its points,
    those of each shape rounded up to whole chunks, and some passes over the lattices. Values that are not finite are counted,
    and count as outside. seeds: [B, N, 3], finite. Raises InputError for arrays of the field without the leading axis B.
    """
    finest_cells(resolution, upsampling_steps)  # raises InputError for numbers that make no grid
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(field)}
    if any(shape[:1] != (num_shapes,) for shape in shapes):
        raise InputError(f'field: expected arrays with a leading axis of {num_shapes} shapes, found {sorted(shapes)}')
    # Cells of each level that may be split; the finest may not.
    leaves = tuple(jnp.full((num_shapes,) + (resolution << i,) * 3, i == 0) for i in range(upsampling_steps))
    wanted = _corners(jnp.ones((num_shapes,) + (resolution,) * 3, bool), 1 << upsampling_steps)
    seeded = tuple(jnp.zeros_like(cells) if seeds is None else _find_cells(cells, seeds) for cells in leaves)
    values = jnp.full(wanted.shape, jnp.nan, jnp.float32)
    zeros = jnp.zeros(num_shapes, jnp.int32)

    def ask_and_split(state):
        values, leaves, wanted, queried, non_finite = state
        queried += wanted.sum(axis=(1, 2, 3), dtype=jnp.int32)
        values, num_bad = _evaluate(field, values, wanted)
        leaves, wanted = _split(leaves, seeded, any_of_eight(values >= level, 1), any_of_eight(values <= level, 1))
        return values, leaves, wanted & jnp.isnan(values), queried, non_finite + num_bad

    values, _, _, queried, non_finite = jax.lax.while_loop(
        lambda state: state[2].any(), ask_and_split, (values, leaves, wanted, zeros, zeros)
    )
    for axis in (1, 2, 3):
        values = _fill_forward(values, axis)
    return Grids(values, queried, non_finite)


@partial(jax.jit, static_argnames='capacity')
def marching_cubes(values: jax.Array, level: float, capacity: int) -> Triangles:
    """values [n, n, n], finite and high inside, on the inclusive lattice of the padded cube -> the surface value = level.

    Closed, also where the inside reaches the box, a manifold, oriented outwards; a value on the level counts as outside. By
    Euler's formula a closed surface has twice as many faces as vertices, but for its few handles and parts, hence one
    capacity: arrays for `capacity` vertices and twice as many faces.
    """
    padded = jnp.pad(values.astype(jnp.float32), 1, constant_values=PAD_VALUE)  # [m, m, m]
    m = len(padded)
    flat = padded.ravel()  # once: the compiler of TPUs takes a minute for each change of layout of a large lattice
    inside, steps = flat > level, (m * m, m, 1)
    # The first and the last layer are outside, so that a row of the lattice may be followed by the next one: each point owns
    # the cell above it and the edges to the next points.
    cases, crossed = inside.astype(jnp.uint8), jnp.zeros(flat.shape, jnp.uint8)
    for axis, bit in reversed(list(enumerate(BITS))):
        cases |= jnp.roll(cases, -steps[axis]) << bit
        crossed |= (inside != jnp.roll(inside, -steps[axis])).astype(jnp.uint8) << axis
    vertices_to = jnp.cumsum(
        jax.lax.population_count(crossed), dtype=jnp.int32
    )  # up to and with the edges of each point
    faces_to = jnp.cumsum(jnp.asarray(NUM_FACES)[cases], dtype=jnp.int32)  # up to and with each cell
    num_vertices, num_faces = vertices_to[-1], faces_to[-1]

    def vertex_of(point, axis):
        """The number of the vertex on the edge from a point along an axis."""
        all_axes = crossed[point].astype(jnp.int32)
        return vertices_to[point] - jax.lax.population_count(all_axes >> axis)

    j = jnp.arange(capacity)
    point = _find(vertices_to, j)
    axis = sum((j >= vertex_of(point, axis)).astype(jnp.int32) for axis in (1, 2))
    vertices = _interpolate(point, point + jnp.asarray(steps)[axis], flat, level, m)
    vertices = jnp.where((j < num_vertices)[:, None], vertices, 0)

    j = jnp.arange(2 * capacity)
    cell = _find(faces_to, j)
    case = cases[cell]
    rank = j - (faces_to[cell] - jnp.asarray(NUM_FACES)[case])  # among the faces of the cell
    corner_steps, faces = jnp.asarray(CORNERS @ steps), []
    for corner in range(3):
        edge = jnp.asarray(FACES[..., corner])[case, rank]  # 3 (corner of the cell) + axis
        faces.append(vertex_of(cell + corner_steps[edge // 3], edge % 3))
    faces = jnp.where((j < num_faces)[:, None], jnp.stack(faces, axis=-1), 0)
    return Triangles(vertices, faces, num_vertices, num_faces)


@partial(jax.jit, static_argnames='capacity')
def march_each(values: jax.Array, level: float, capacity: int) -> Triangles:
    """`marching_cubes` of values [B, n, n, n], one shape after the other: each fills the device, with the memory of one."""
    return jax.lax.map(lambda grid: marching_cubes(grid, level, capacity), values)


def _find(running: jax.Array, j: jax.Array) -> jax.Array:
    """Index of the j-th True, from 0, in a mask with the prefix sum `running` [K]; K where there are fewer.

    The binary search is a loop. Unrolled, each step uses what the step before it found several times, and LLVM's vectoriser
    follows all paths of uses from `j` on. Their number is exponential in that of the steps: compilation would not end.
    """
    return jnp.searchsorted(running, j + 1, method='scan')


def _interpolate(start: jax.Array, end: jax.Array, flat: jax.Array, level: float, m: int) -> jax.Array:
    """Edges between points [N] of the padded lattice [m^3] -> the points [N, 3] on them where the value is the level."""
    world = jnp.asarray(lattice_to_world(np.arange(m) - 1, m - 3), jnp.float32)
    a, b = flat[start] - level, flat[end] - level
    share = jnp.clip(a / (a - b), MIN_SHARE, 1 - MIN_SHARE)[:, None]
    start, end = (world[jnp.stack(jnp.unravel_index(point, (m,) * 3), axis=-1)] for point in (start, end))
    return start + share * (end - start)


def _evaluate(field: Callable, values: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fill in the values at the wanted points, both [B, R + 1, R + 1, R + 1]; returns them and how many are not finite [B].

    Those are stored as -inf.
    """
    num_shapes, lattice = len(wanted), wanted.shape[1:]
    world = jnp.asarray(lattice_to_world(np.arange(lattice[0]), lattice[0] - 1), jnp.float32)
    running = jnp.cumsum(wanted.ravel(), dtype=jnp.int32)
    # Points and chunks are numbered through all shapes. A chunk belongs to one shape.
    last_points = running.reshape(num_shapes, -1)[:, -1]
    first_points = jnp.concatenate([jnp.zeros(1, jnp.int32), last_points[:-1]])
    num_chunks = -(-(last_points - first_points) // MISE_CHUNK)
    last_chunks = jnp.cumsum(num_chunks)

    def evaluate_chunk(chunk, state):
        values, num_bad = state
        b = jnp.searchsorted(last_chunks, chunk, side='right')
        rank = chunk - (last_chunks[b] - num_chunks[b])  # among the chunks of the shape
        j = first_points[b] + rank * MISE_CHUNK + jnp.arange(MISE_CHUNK)
        place = _find(running, j)
        points = world[jnp.stack(jnp.unravel_index(place % np.prod(lattice), lattice), axis=-1)]
        found = checked_call(jax.tree.map(lambda leaf: leaf[b], field), points)
        found, finite, real = found.astype(jnp.float32), jnp.isfinite(found), j < last_points[b]
        # The padding of the last chunk is dropped: its index is out of range.
        place = jnp.where(real, place, values.size)
        values = values.at[place].set(jnp.where(finite, found, -jnp.inf), mode='drop')
        return values, num_bad.at[b].add((real & ~finite).sum(dtype=jnp.int32))

    start = values.ravel(), jnp.zeros(num_shapes, jnp.int32)
    found, num_bad = jax.lax.fori_loop(0, last_chunks[-1], evaluate_chunk, start)
    return found.reshape(values.shape), num_bad


def _fill_forward(values: jax.Array, axis: int) -> jax.Array:
    """Forward fill: each NaN becomes the last number before it along the axis. Layer by layer, in place."""

    def fill_layer(i, values):
        before, here = (jax.lax.dynamic_index_in_dim(values, k, axis) for k in (i - 1, i))
        return jax.lax.dynamic_update_index_in_dim(values, jnp.where(jnp.isnan(here), before, here), i, axis)

    return jax.lax.fori_loop(1, values.shape[axis], fill_layer, values)


def _find_cells(cells: jax.Array, points: jax.Array) -> jax.Array:
    """Mask, in the shape of `cells` [B, n, n, n], of those that hold a point [B, N, 3]. Points outside the box are ignored."""
    places = jnp.floor(world_to_lattice(points, cells.shape[1])).astype(jnp.int32)
    places = jnp.where(places < 0, cells.shape[1], places)  # a negative index would count from the end
    rows = jnp.arange(len(cells))[:, None]
    return jnp.zeros_like(cells).at[rows, places[..., 0], places[..., 1], places[..., 2]].set(True, mode='drop')


def _split(
    leaves: tuple[jax.Array, ...], seeded: tuple[jax.Array, ...], above: jax.Array, below: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Split the leaves that touch both sides or hold a seed; returns the new leaves and the mask of points of the new cells.

    All leaves are judged as they are before the round. leaves, seeded: [B, n, n, n] bool for each level but the finest. above,
    below: masks of finest cells [B, R, R, R] that touch either side.
    """
    leaves = list(leaves)
    wanted = jnp.zeros((len(above),) + (above.shape[1] + 1,) * 3, bool)
    for i in reversed(range(len(leaves))):
        above, below = any_of_eight(above, 2), any_of_eight(below, 2)
        split = leaves[i] & (above & below | seeded[i])
        children = split
        for axis in (1, 2, 3):
            children = jnp.repeat(children, 2, axis)
        leaves[i] &= ~split
        if i + 1 < len(leaves):
            leaves[i + 1] |= children
        wanted |= _corners(children, 1 << (len(leaves) - 1 - i))
    return tuple(leaves), wanted


def _corners(cells: jax.Array, edge: int) -> jax.Array:
    """Mask of cells [B, n, n, n] with edges of `edge` finest cells -> mask of the points [B, R + 1, R + 1, R + 1] at their
    corners."""
    points = any_of_eight(jnp.pad(cells, ((0, 0), (1, 1), (1, 1), (1, 1))), 1)
    return jax.lax.pad(points, False, ((0, 0, 0),) + ((0, 0, edge - 1),) * 3)
