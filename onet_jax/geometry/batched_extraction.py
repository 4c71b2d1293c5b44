"""MISE and marching cubes as compiled programs: isosurface extraction of a batch of shapes on an accelerator.

Compiled programs have arrays of fixed size. So MISE works on masks of the whole lattice, where `mise.py` on the host has lists
of points. A mask becomes a list by stream compaction: its j-th True is where the prefix sum of the mask reaches j, which is
found by binary search.

A batch of fields is one callable pytree, e.g. jax.tree_util.Partial(f, codes): its arrays have a leading axis B, and row b of
all of them is the field of shape b, [T, 3] object coordinates -> [T]. Values and level are float32.

Lattices are flat: R + 1 points along each axis in a border of one point, M = R + 3 in all, and a neighbour is as many places
further as `_steps` says. Of a three-dimensional array with 129 points along an axis the tiles of a TPU would make four times as
much, and its compiler takes a minute for each change of layout of a large one. A cell is where its first corner is.

B shapes, R finest cells along an axis, T query points, N vertices or points, F faces. B M^3 has to be below 2^31. The
compiler of TPUs plans 12 bytes for each of the B M^3 points in MISE (0.2 GB at B = 8 and R = 128), and 18 for each of the M^3
points of one shape in marching cubes.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.field import bucket_size, check_finite, checked_call
from onet_jax.geometry.grid import CORNERS, finest_cells, lattice_to_world, world_to_lattice
from onet_jax.geometry.marching_cubes_cases import BITS, FACES, MIN_SHARE, NUM_FACES

# Points of one evaluation: enough to fill an accelerator, few compared with those of a shape in a round.
MISE_CHUNK = 8192
NO_CELL = 255  # in an array of the levels of cells
PAD_VALUE = -1e30  # around the box: a surface that reaches the box is closed there


class Grids(NamedTuple):
    """Values on the finest lattices of B shapes, and their cost."""

    values: jax.Array  # [B M^3]; unqueried points hold the value of a known neighbour, the border `PAD_VALUE`
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
        triangles = march_each(grids.values, level, num_shapes, capacity)
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
    num_cells = finest_cells(resolution, upsampling_steps)  # raises InputError for numbers that make no grid
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(field)}
    if any(shape[:1] != (num_shapes,) for shape in shapes):
        raise InputError(f'field: expected arrays with a leading axis of {num_shapes} shapes, found {sorted(shapes)}')
    m = num_cells + 3
    along = [_along(jnp.arange(num_shapes * m**3), step, m) for step in _steps(m)]
    edge = 1 << upsampling_steps  # of the coarsest cells
    coarse = reduce(jnp.logical_and, [(i >= 0) & (i < num_cells) & (i % edge == 0) for i in along])
    levels = jnp.where(coarse, 0, NO_CELL).astype(jnp.uint8)
    seeded = jnp.uint8(0) if seeds is None else _find_cells(seeds, upsampling_steps, m)
    wanted = _spread(coarse, edge, m)
    values = jnp.full(wanted.shape, jnp.nan, jnp.float32)
    zeros = jnp.zeros(num_shapes, jnp.int32)

    def ask_and_split(state):
        values, levels, wanted, queried, non_finite = state
        values, num_asked, num_bad = _evaluate(field, values, wanted, num_shapes)
        sides = (values >= level).astype(jnp.uint8) | (values <= level).astype(jnp.uint8) << 1
        levels, wanted = _split(levels, seeded, sides, upsampling_steps, m)
        return values, levels, wanted & jnp.isnan(values), queried + num_asked, non_finite + num_bad

    values, _, _, queried, non_finite = jax.lax.while_loop(
        lambda state: state[2].any(), ask_and_split, (values, levels, wanted, zeros, zeros)
    )
    inside = reduce(jnp.logical_and, [(i >= 0) & (i <= num_cells) for i in along])
    return Grids(jnp.where(inside, _fill_forward(values, m), PAD_VALUE), queried, non_finite)


@partial(jax.jit, static_argnames='capacity')
def marching_cubes(values: jax.Array, level: float, capacity: int) -> Triangles:
    """values [M^3], finite and high inside, of one shape with its border -> the surface value = level.

    Closed, also where the inside reaches the box, a manifold, oriented outwards; a value on the level counts as outside. By
    Euler's formula a closed surface has twice as many faces as vertices, but for its few handles and parts, hence one
    capacity: arrays for `capacity` vertices and twice as many faces.
    """
    m = round(len(values) ** (1 / 3))
    inside, steps = values > level, _steps(m)
    # The first and the last layer are outside, so that a row of the lattice may be followed by the next one: each point owns
    # the cell above it and the edges to the next points.
    cases, crossed = inside.astype(jnp.uint8), jnp.zeros(inside.shape, jnp.uint8)
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
    vertices = _interpolate(point, point + jnp.asarray(steps)[axis], values, level)
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


@partial(jax.jit, static_argnames=('num_shapes', 'capacity'))
def march_each(values: jax.Array, level: float, num_shapes: int, capacity: int) -> Triangles:
    """`marching_cubes` of values [B M^3], one shape after the other: each fills the device, with the memory of one."""
    size = len(values) // num_shapes

    def march(b):
        return marching_cubes(jax.lax.dynamic_slice(values, (b * size,), (size,)), level, capacity)

    return jax.lax.map(march, jnp.arange(num_shapes))


def _steps(m: int) -> tuple[int, int, int]:
    """How many places further the neighbour along each axis is in a flat lattice of m points along an axis."""
    return m * m, m, 1


def _along(numbers: jax.Array, step: int | jax.Array, m: int) -> jax.Array:
    """Places [N] in flat lattices -> their places on the axis of the step: 0..R in the box, -1 and R + 1 in the border."""
    return numbers // step % m - 1


def _find(running: jax.Array, j: jax.Array) -> jax.Array:
    """Index of the j-th True, from 0, in a mask with the prefix sum `running` [K]; K where there are fewer.

    The binary search is a loop. Unrolled, each step uses what the step before it found several times, and LLVM's vectoriser
    follows all paths of uses from `j` on. Their number is exponential in that of the steps: compilation would not end.
    """
    return jnp.searchsorted(running, j + 1, method='scan')


def _interpolate(start: jax.Array, end: jax.Array, values: jax.Array, level: float) -> jax.Array:
    """Edges between points start and end [N] of a lattice [M^3] -> the points [N, 3] where the value is the level."""
    world = _places(values.size)
    a, b = values[start] - level, values[end] - level
    share = jnp.clip(a / (a - b), MIN_SHARE, 1 - MIN_SHARE)[:, None]
    return world(start) + share * (world(end) - world(start))


def _places(size: int) -> Callable[[jax.Array], jax.Array]:
    """Numbers [N] of points in lattices of `size` points each -> their object coordinates [N, 3]."""
    m = round(size ** (1 / 3))
    world = jnp.asarray(lattice_to_world(np.arange(m) - 1, m - 3), jnp.float32)  # of the border too
    return lambda numbers: jnp.stack([world[_along(numbers, step, m) + 1] for step in _steps(m)], axis=-1)


def _evaluate(
    field: Callable, values: jax.Array, wanted: jax.Array, num_shapes: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Fill in the values at the wanted points, both [B M^3]; returns them, how many they are and how many are not finite [B].

    Those are stored as -inf.
    """
    size = values.size // num_shapes
    world, running = _places(size), jnp.cumsum(wanted, dtype=jnp.int32)
    # Points and chunks are numbered through all shapes. A chunk belongs to one shape.
    last_points = running[size * (jnp.arange(num_shapes) + 1) - 1]
    first_points = jnp.concatenate([jnp.zeros(1, jnp.int32), last_points[:-1]])
    num_chunks = -(-(last_points - first_points) // MISE_CHUNK)
    last_chunks = jnp.cumsum(num_chunks)

    def evaluate_chunk(chunk, state):
        values, num_bad = state
        b = jnp.searchsorted(last_chunks, chunk, side='right')
        rank = chunk - (last_chunks[b] - num_chunks[b])  # among the chunks of the shape
        j = first_points[b] + rank * MISE_CHUNK + jnp.arange(MISE_CHUNK)
        place = _find(running, j)
        found = checked_call(jax.tree.map(lambda leaf: leaf[b], field), world(place))
        found, finite, real = found.astype(jnp.float32), jnp.isfinite(found), j < last_points[b]
        # The padding of the last chunk is dropped: its index is out of range.
        place = jnp.where(real, place, values.size)
        values = values.at[place].set(jnp.where(finite, found, -jnp.inf), mode='drop')
        return values, num_bad.at[b].add((real & ~finite).sum(dtype=jnp.int32))

    start = values, jnp.zeros(num_shapes, jnp.int32)
    values, num_bad = jax.lax.fori_loop(0, last_chunks[-1], evaluate_chunk, start)
    return values, last_points - first_points, num_bad


def _fill_forward(values: jax.Array, m: int) -> jax.Array:
    """Forward fill of [B M^3] along each axis: a NaN becomes the last number before it. A scan (Hillis and Steele, 1986)."""
    steps, numbers = jnp.asarray(_steps(m)), jnp.arange(values.size)

    def fill_axis(axis, values):
        along = _along(numbers, steps[axis], m)

        def look_back(i, values):
            """Of each point the last number among the 2^i points up to it -> among the last 2^(i + 1)."""
            known = ~jnp.isnan(values) | (along < 1 << i)
            return jnp.where(known, values, jnp.roll(values, steps[axis] << i))

        return jax.lax.fori_loop(0, (m - 3).bit_length(), look_back, values)

    return jax.lax.fori_loop(0, 3, fill_axis, values)


def _find_cells(points: jax.Array, upsampling_steps: int, m: int) -> jax.Array:
    """Cells that hold a point [B, N, 3]: [B M^3] uint8, bit i for that of level i. Points outside the box are ignored."""
    size, found = len(points) * m**3, jnp.uint8(0)
    for i in range(upsampling_steps):
        edge = 1 << (upsampling_steps - i)
        num_cells = (m - 3) // edge
        places = jnp.floor(world_to_lattice(points, num_cells)).astype(jnp.int32)
        inside = ((places >= 0) & (places < num_cells)).all(axis=-1)
        numbers = ((edge * places + 1) * jnp.asarray(_steps(m))).sum(axis=-1)
        numbers = jnp.where(inside, numbers + m**3 * jnp.arange(len(points))[:, None], size)
        found |= jnp.zeros(size, jnp.uint8).at[numbers].set(1 << i, mode='drop')
    return found


def _split(
    levels: jax.Array, seeded: jax.Array, sides: jax.Array, upsampling_steps: int, m: int
) -> tuple[jax.Array, jax.Array]:
    """Split the cells that touch both sides or hold a seed; returns the new levels and the mask of points of the new cells.

    All cells are judged as they are before the round. levels: [B M^3] uint8, of the cells, 0 for the coarsest; `NO_CELL` where
    none begins. seeded: as of `_find_cells`. sides: uint8, of each point: bit 0 for above, bit 1 for below, both on the level.
    """

    def split_level(k, state):
        levels, wanted, sides = state
        level, edge = upsampling_steps - 1 - k, 1 << k  # the finer ones first; the edge of the new cells
        sides = _spread(sides, -edge, m)
        split = (levels == level) & ((sides == 3) | (seeded >> level.astype(jnp.uint8) & 1 == 1))
        children = _spread(split, edge, m)
        levels = jnp.where(children, level + 1, levels).astype(jnp.uint8)
        return levels, wanted | _spread(children, edge, m), sides

    sides = _spread(sides, -1, m)  # of the finest cells
    state = levels, jnp.zeros(levels.shape, bool), sides
    levels, wanted, _ = jax.lax.fori_loop(0, upsampling_steps, split_level, state)
    return levels, wanted


def _spread(marks: jax.Array, distance: int | jax.Array, m: int) -> jax.Array:
    """Marks [B M^3] of cells -> of their eight corners, or of the eight cells that begin there, at `distance` along each axis.

    With a negative distance from those to the cells: the union of eight. A loop, for each roll takes a TPU's compiler a second.
    """
    steps = distance * jnp.asarray(_steps(m))
    return jax.lax.fori_loop(0, 3, lambda axis, marks: marks | jnp.roll(marks, steps[axis]), marks)
