"""Deep Marching Cubes (Liao et al., CVPR 2018): a distribution over the topologies of each cell, and losses of its mesh.

A network gives the occupancy o in [0, 1] of each point of a lattice and, for each axis, the offset in [-1/2, 1/2] of the vertex
on the edge that ends there. Cell (i, j, k) of N^3 has eight corners; which of them are unoccupied is its topology. Corners are
independent, so that a topology has a probability. The losses are expectations over it. All is differentiable.

N cells along an axis, K topologies, P points. Functions take one shape: the occupancy [N + 1, N + 1, N + 1] and the offsets
[N + 1, N + 1, N + 1, 3]. Lengths are in edges of a cell. A *class* is a topology with its complement: both have the same
triangles, in opposite orientations.
"""

from itertools import combinations, pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from scipy.ndimage import convolve

BOX = 1.2  # edge of the cube in object coordinates that the cells fill, its centre at 0

# Of Lorensen and Cline (SIGGRAPH 1987) as tabulated by Bourke: for each topology the edges of its triangles, in hexadecimal.
_ROWS = """
    - 083 019 183981 12a 08312a 92a029 2832a8a98 3b2 0b28b0 19023b 1b219b98b 3a1ba3 0a108a8ba 3903b9ba9 98aa8b 478 430734
    019847 419471731 12a847 34730412a 92a902847 2a9297273794 8473b2 b47b24204 90184723b 47b94b9b2921 3a13ba784
    1ba14b1047b4 47890b9bab03 47b4b99ba 954 954083 054150 854835315 12a954 30812a495 52a542402 2a5325354348 95423b
    0b208b495 05401523b 21525828b485 a3ba13954 4950818a18ba 54050b5bab03 54858aa8b 978579 930953573 078017157 153357
    978957a12 a12950530573 802825857a52 2a5253357 7957893b2 95797292027b 23b018178157 b21b17715 958857a13a3b
    5705097b010aba0 ba0b03a50807570 ba57b5 a65 0835a6 9015a6 1831985a6 165261 165126308 965906026 598582526328 23ba65
    b08b20a65 01923b5a6 5a61929b298b 63b653513 08b0b50515b6 3b6036065059 65969bb98 5a6478 43047365a 1905a6847 a65197173794
    612651478 125526304347 847905065026 739794329596269 3b2784a65 5a647242027b 01947823b5a6 9219b294b7b45a6 8473b53515b6
    51b5b610b7b404b 059065036b63847 65969b4797b9 a4964a 4a649a083 a01a60640 83181686461a 149124264 308129249264 024426
    832824426 a49a64b23 08228b49a4a6 3b201606461a 64161a48121b8b1 964936913b63 8b1810b61914641 3b6360064 648b68 7a678a89a
    0730a709a67a a671a7178180 a67a71173 126168189867 269291679093739 780706602 732672 23ba68a89867 20727b09767a9a7
    1801781a767a23b b21b17a61671 896867916b63136 091b67 7807063b0b60 7b6 76b 308b76 019b76 819831b76 a126b7 12a3086b7
    2902a96b7 6b72a3a83a98 723627 708760620 276237019 162186198876 a76a17137 a7617a187108 03707a0a96a7 76a7a88a9 684b86
    36b306046 86b846901 946963931b36 6846b82a1 12a30b06b046 4b846b0292a9 a93a32943b36463 823842462 042462 190234246438
    194142246 8138618466a1 a10a06604 4634386a3039a93 a946a4 49576b 083495b76 50154076b b76834354315 954a1276b 6b712a083495
    76b54a42a402 348354325a52b76 723762549 954086062687 362376150540 628687218485158 954a16176137 16a176107870954
    40a4a503a6a737a 76a7a854a48a 6956b9b89 36b063056095 0b805b01556b 6b3635531 12a95b9b8b56 0b306b09656912a
    b85b56805a52025 6b36352a3a53 589528562382 956960062 158180568382628 156216 13616a386569896 a10a06950560 03856a a56
    b5a75b b5ab75830 5b75ab190 a75ab7981831 b12b71751 08312717572b 9759279022b7 75272b592328982 25a235375 820852875a25
    9015a35373a2 982921872a25752 135375 087071175 903935537 987597 5845a8ab8 5045b05abb30 01984a8aba45 ab4a45b34941314
    2512852b8458 04b0b345b2b151b 0250592b5458b85 9452b3 25a352345384 5a2524420 3a235a385458019 5a2524192942 845853351
    045105 845853905035 945 4b749b9ab 0834979b79ab 1ab1b414074b 3143481a474bab4 4b79b492b912 9749b791b2b1083 b74b42240
    b74b42834324 29a279237749 9a7974a27870207 37a3a274a1a040a 1a2874 491417713 491417081871 403743 487 9a8ab8 30939bb9a
    01a0a88ab 31ab3a 12b1b99b8 30939b1292b9 02b80b 32b 23828aa89 9a2092 23828a0181a8 1a2 138918 091 038 -
"""
TABLE = _ROWS.split()
# Bit v of a topology says that corner v is unoccupied. Edges join corners; a vertex is placed from the higher one.
CORNERS = np.array([(0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 0, 1), (0, 0, 1)])
_ends = (
    [(e, (e + 1) % 4) for e in range(4)] + [(4 + e, 4 + (e + 1) % 4) for e in range(4)] + [(e, 4 + e) for e in range(4)]
)
EDGE_ENDS = np.array([np.maximum(CORNERS[a], CORNERS[b]) for a, b in _ends], np.int32)  # [12, 3], the higher corner
EDGE_AXES = np.array([int(np.flatnonzero(CORNERS[a] != CORNERS[b])[0]) for a, b in _ends], np.int32)  # [12]

Triangle = tuple[int, ...]  # three edges


def triangles_of(topology: int) -> list[Triangle]:
    """The triangles of a topology, as the edges on which their vertices lie."""
    digits = [int(digit, 16) for digit in TABLE[topology].strip('-')]
    return [tuple(digits[i : i + 3]) for i in range(0, len(digits), 3)]


def _is_simple(topology: int, most: int) -> bool:
    """Whether the surface in the cell is empty or one disk of at most so many triangles."""
    triangles = triangles_of(topology)
    return len(triangles) <= most and len(set(sum(triangles, ()))) in (0, len(triangles) + 2)


# Of the losses: a topology of each class and then, in reverse, the complements; number 47 is without a surface.
CLASSES = (*(t for t in range(1, 128) if _is_simple(t, 3)), 0)
# All indices are int32, one type in both precisions of JAX.
TOPOLOGIES = np.array([*CLASSES, *(255 - t for t in reversed(CLASSES))], np.int32)  # [96]
VISIBLE = np.array([t for t in range(256) if _is_simple(t, 4)], np.int32)  # [140], those of which a mesh is made
TRIANGLES = [triangle for t in TOPOLOGIES for triangle in triangles_of(t)]  # 220
TRIANGLE_TOPOLOGIES = np.array(
    [n for n, t in enumerate(TOPOLOGIES) for _ in triangles_of(t)]
)  # [220], numbers below 96


def to_grid(points: jax.Array, num_cells: int) -> jax.Array:
    """Object coordinates -> coordinates in which cell (i, j, k) begins at (i, j, k); any shape."""
    return num_cells * (points / BOX + 0.5)


def find_cells(points: jax.Array, num_cells: int) -> jax.Array:
    """The flat number of the cell of each point [..., P, 3] in coordinates of the grid: [..., P], N^3 outside of it."""
    inside = ((points >= 0) & (points < num_cells)).all(axis=-1)
    x, y, z = jnp.moveaxis(jnp.where(inside[..., None], points, 0).astype(jnp.int32), -1, 0)
    return jnp.where(inside, (x * num_cells + y) * num_cells + z, num_cells**3)


def topology_probabilities(occupancy: jax.Array, topologies: np.ndarray) -> jax.Array:
    """The probability of each of K topologies in each cell: [K, N, N, N]."""
    n = len(occupancy) - 1
    corners = [occupancy[i : i + n, j : j + n, k : k + n] for i, j, k in CORNERS]

    def multiply(four):
        """Of four corners the probability of each pattern: [16, N, N, N]."""
        patterns = jnp.ones((1, n, n, n), occupancy.dtype)
        for corner in four:
            patterns = jnp.concatenate([patterns * corner, patterns * (1 - corner)])
        return patterns

    return multiply(corners[:4])[topologies & 15] * multiply(corners[4:])[topologies >> 4]


def cell_vertices(offset: jax.Array) -> jax.Array:
    """The vertex on each edge of each cell, relative to the cell: [12, 3, N, N, N]."""
    n = len(offset) - 1
    places = [
        offset[i : i + n, j : j + n, k : k + n, axis] for (i, j, k), axis in zip(EDGE_ENDS, EDGE_AXES, strict=True)
    ]
    return _place(jnp.stack(places))


def _place(offsets: jax.Array) -> jax.Array:
    """Offsets [12, ...] of the vertices of cells -> vertices [12, 3, ...], relative to the cell."""
    ones = (1,) * (offsets.ndim - 1)
    along = jnp.asarray(np.eye(3, dtype=bool)[EDGE_AXES].reshape(12, 3, *ones))
    fixed = jnp.asarray(EDGE_ENDS.reshape(12, 3, *ones), offsets.dtype)
    return jnp.where(along, 0.5 - offsets[:, None], fixed)


# The loss of points to the mesh

_of_classes = np.array(TRIANGLES[: len(TRIANGLES) // 2], np.int32)  # [110, 3]
_first = np.searchsorted(TRIANGLE_TOPOLOGIES, range(48))
# [47, 3]: of each class its triangles among the 110, the first one repeated where it has fewer than three.
_CLASS_TRIANGLES = np.array(
    [[i + (j if i + j < end else 0) for j in range(3)] for i, end in pairwise(_first)], np.int32
)
FAR = 0.4  # squared distance from every triangle that a cell without points counts with
NONE = 10.0  # distance from no surface at all, in units of the largest from a surface


class CellDistances(NamedTuple):
    """Of the cells that hold points; there are at most P, and the arrays have that length."""

    cells: jax.Array  # [P] int, flat number; N^3 where there is no further one
    distances: jax.Array  # [48, P], mean over the points of the cell, by class


def point_triangle_distance(points: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """Squared distances of points [3, P] and triangles of corners [T, 3, P] -> [T, P].

    Exact where the nearest point is inside of the triangle. Else its barycentric coordinates are clamped, as in the official
    code, which is an upper bound.
    """

    def dot(u, v):
        return (u * v).sum(axis=1)

    u, v, w = b - a, c - a, a - points
    uu, uv, vv, uw, vw, ww = dot(u, u), dot(u, v), dot(v, v), dot(u, w), dot(v, w), dot(w, w)
    area = jnp.maximum(uu * vv - uv * uv, 1e-8)
    s, t = jnp.maximum((uv * vw - vv * uw) / area, 0), jnp.maximum((uv * uw - uu * vw) / area, 0)
    beyond = jnp.maximum(s + t, 1)
    s, t = s / beyond, t / beyond
    return s * (uu * s + uv * t + 2 * uw) + t * (uv * s + vv * t + 2 * vw) + ww


def cell_distances(points: jax.Array, offset: jax.Array) -> CellDistances:
    """The squared distance of points [P, 3], in coordinates of the grid, from the mesh of each class in their cells.

    Only cells with points are visited. Points outside of the grid are left out.
    """
    n = len(offset) - 1
    cells = find_cells(points, n)
    order = jnp.argsort(cells)
    cells, points = cells[order], points[order]
    ranks = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), (cells[1:] != cells[:-1]).astype(jnp.int32)]))
    corner = jnp.stack(jnp.unravel_index(jnp.minimum(cells, n**3 - 1), (n, n, n)))  # [3, P]
    ends = corner + EDGE_ENDS[:, :, None]  # [12, 3, P]
    vertices = _place(offset[ends[:, 0], ends[:, 1], ends[:, 2], EDGE_AXES[:, None]])
    a, b, c = (vertices[_of_classes[:, i]] for i in range(3))
    by_class = point_triangle_distance(points.T - corner, a, b, c)[_CLASS_TRIANGLES]  # [47, 3, P]
    # Of equally near triangles the first one gets the gradient.
    nearest = jax.lax.stop_gradient(by_class).argmin(axis=1, keepdims=True)
    nearest = jnp.take_along_axis(by_class, nearest, axis=1)[:, 0]

    def sum_cells(values):
        return jax.ops.segment_sum(values, ranks, len(ranks), indices_are_sorted=True)

    count = jnp.maximum(sum_cells(jnp.ones(len(ranks), offset.dtype)), 1)
    mean = sum_cells(nearest.T).T / count
    none = NONE * jax.lax.stop_gradient(mean).max(axis=0, keepdims=True)
    occupied = jnp.full(len(ranks), n**3).at[ranks].set(cells)
    return CellDistances(occupied, jnp.concatenate([mean, none]))


def point_to_mesh(points: jax.Array, probabilities: jax.Array, offset: jax.Array) -> jax.Array:
    """The expected squared distance of points [P, 3], in coordinates of the grid, from the mesh of their cell.

    probabilities [96, N, N, N] of `TOPOLOGIES`, which are normalised here. The mean over all cells; one without points
    counts as if they were far from every triangle.
    """
    normalised = probabilities / jnp.maximum(probabilities.sum(axis=0), 1e-6)
    weights = (normalised[:48] + normalised[:47:-1]).reshape(48, -1)  # by class
    cells, distances = cell_distances(points, offset)
    far = jnp.where(jnp.arange(48) < 47, FAR, 0.0).astype(offset.dtype)[:, None]
    visited = weights.at[:, cells].get(mode='fill', fill_value=0) * (distances - far)
    return ((weights * far).sum() + visited.sum()) / weights.shape[1]


# Losses without points


def free_space_weights(num_points: int) -> np.ndarray:
    """How sure the points [M, M, M] of a lattice are outside of the shape: 1 at the corners, 0 from the third layer on."""
    boundary = np.ones((num_points,) * 3)
    boundary[1:-1, 1:-1, 1:-1] = 0
    axis = np.exp(-np.square([-1.0, 0.0, 1.0]) / 2)
    weights = convolve(boundary, axis[:, None, None] * axis[:, None] * axis)
    return weights / weights.max()


def occupancy_prior(occupancy: jax.Array) -> jax.Array:
    """The boundary of the box is outside; inside of it is something, until one point in thirty is occupied for sure."""
    m = len(occupancy)
    weights = jnp.asarray(free_space_weights(m), occupancy.dtype)
    outside = (occupancy * weights).sum() / weights.sum()
    largest = jax.lax.top_k(jax.lax.stop_gradient(occupancy).ravel(), m**3 // 30)[0]
    core = slice(int(0.2 * m), int(0.8 * m))
    return outside + 0.2 * (1 - largest.mean()) * (1 - occupancy[core, core, core].mean())


def smoothness(occupancy: jax.Array) -> jax.Array:
    """The absolute differences of neighbours, their sum over N^3. Of equal ones the official sub-gradient is that of q - p."""
    total = jnp.zeros((), occupancy.dtype)
    for axis in range(3):
        p = jax.lax.slice_in_dim(occupancy, 0, -1, axis=axis)
        q = jax.lax.slice_in_dim(occupancy, 1, None, axis=axis)
        total += jnp.where(p > q, p - q, q - p).sum()
    return total / (len(occupancy) - 1) ** 3


# The 220 triangles are 80 different ones, seen from one side or the other.


def _turn(triangle: Triangle) -> int:
    """1 where the edges are an even permutation of the sorted ones, else -1."""
    a, b, c = triangle
    return 1 if (a < b) + (b < c) + (c < a) == 2 else -1


_DISTINCT = sorted({tuple(sorted(triangle)) for triangle in TRIANGLES})
_numbers = np.array([_DISTINCT.index(tuple(sorted(triangle))) for triangle in TRIANGLES])  # [220]
_turns = np.array([_turn(triangle) for triangle in TRIANGLES])  # [220]
_TURNS = np.zeros((len(_DISTINCT), 96))  # how often a topology has a triangle, -1 for its other side
np.add.at(_TURNS, (_numbers, TRIANGLE_TOPOLOGIES), _turns)


def _pairs_at_sides() -> np.ndarray:
    """[3, 2, 6, 80]: for each axis, at the high and the low side of a cell, the triangles with both of two edges there."""
    touches = np.zeros((3, 2, 6, len(_DISTINCT)))
    for axis in range(3):
        high = [e for e in range(12) if EDGE_AXES[e] != axis and EDGE_ENDS[e, axis]]
        ends = EDGE_ENDS[high] - np.eye(3, dtype=int)[axis]
        low = [
            next(e for e in range(12) if (EDGE_ENDS[e] == end).all() and EDGE_AXES[e] == EDGE_AXES[h])
            for h, end in zip(high, ends, strict=True)
        ]
        for side, edges in enumerate((high, low)):
            for pair, two in enumerate(combinations(edges, 2)):
                touches[axis, side, pair] = [set(two) <= set(triangle) for triangle in _DISTINCT]
    return touches


_SIDES = _pairs_at_sides()


def _pairs_inside() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of triangles that a topology joins by an edge: numbers [2, J]; 1 or -1 [J] where one is seen from its other
    side; which topologies have the pair [J, 96]."""
    pairs: dict[tuple[int, int, int], list[int]] = {}
    for i, j in combinations(range(len(TRIANGLES)), 2):
        if TRIANGLE_TOPOLOGIES[i] == TRIANGLE_TOPOLOGIES[j] and len(set(TRIANGLES[i]) & set(TRIANGLES[j])) == 2:
            first, second = sorted((_numbers[i], _numbers[j]))
            pairs.setdefault((first, second, _turns[i] * _turns[j]), []).append(TRIANGLE_TOPOLOGIES[i])
    owners = np.zeros((len(pairs), 96))
    for row, topologies in zip(owners, pairs.values(), strict=True):
        row[topologies] = 1
    first, second, turns = np.array(list(pairs), np.int32).T
    return np.stack([first, second]), turns, owners


_JOINED, _JOINED_TURNS, _JOINED_OWNERS = _pairs_inside()


def curvature_terms(weights: jax.Array, offset: jax.Array) -> tuple[jax.Array, ...]:
    """The squared differences of the normals of triangles that share an edge, weighted by both of their topologies.

    weights [96, N, N, N] of `TOPOLOGIES`, which get no gradient. Returned are the sums for each cell and the next one along
    x [N - 1, N, N], y and z, and within each cell [N, N, N], where every pair counts twice.
    """
    n = len(offset) - 1
    weights = jax.lax.stop_gradient(weights).reshape(96, -1)
    a, b, c = (np.eye(12)[np.array(_DISTINCT)[:, i]] for i in range(3))  # [80, 12], which edge a corner is on
    vertices = jnp.moveaxis(cell_vertices(offset).reshape(12, 3, -1), 1, 0)
    x, y, z = zip([_times(b - a, v) for v in vertices], [_times(c - a, v) for v in vertices], strict=True)
    normal = [y[0] * z[1] - z[0] * y[1], z[0] * x[1] - x[0] * z[1], x[0] * y[1] - y[0] * x[1]]
    inverse = jax.lax.rsqrt(jnp.maximum(sum(map(jnp.square, normal)), 1e-12))
    normal = [component * inverse for component in normal]  # three of [80, N^3]

    # The sum of w_i w_j |n_i - n_j|^2 over all i here and j there takes only the moments here and there: of w, w n^2 and w n.
    weight, signed = _times(np.abs(_TURNS), weights), _times(_TURNS, weights)
    moments = [weight, weight * sum(map(jnp.square, normal)), *(signed * component for component in normal)]
    moments = [_times(_SIDES.reshape(36, -1), moment).reshape(3, 2, 6, n, n, n) for moment in moments]
    terms = []
    for axis in range(3):
        here = [jax.lax.slice_in_dim(moment[axis, 0], 0, -1, axis=1 + axis) for moment in moments]
        there = [jax.lax.slice_in_dim(moment[axis, 1], 1, None, axis=1 + axis) for moment in moments]
        across = sum(v * w for v, w in zip(here[2:], there[2:], strict=True))
        terms.append((here[0] * there[1] + here[1] * there[0] - 2 * across).sum(axis=0))
    (first, second), turns = _JOINED, jnp.asarray(_JOINED_TURNS, offset.dtype)[:, None]
    bend = sum(jnp.square(component[first] - turns * component[second]) for component in normal)
    within = 2 * (_times(_JOINED_OWNERS, jnp.square(weights)) * bend).sum(axis=0)
    return *terms, within.reshape(n, n, n)


def _times(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    """A constant matrix times values [..., N^3]."""
    return jnp.dot(jnp.asarray(matrix, values.dtype), values, precision='highest')


def curvature(probabilities: jax.Array, offset: jax.Array) -> jax.Array:
    """`curvature_terms` over N^3, of the weights softmax(probabilities [96, N, N, N]), as in the official code."""
    terms = curvature_terms(jax.nn.softmax(probabilities, axis=0), offset)
    return jnp.stack([term.sum() for term in terms]).sum() / (len(offset) - 1) ** 3


class Terms(NamedTuple):
    """The losses of a shape."""

    mesh: jax.Array
    prior: jax.Array
    smoothness: jax.Array
    curvature: jax.Array


def loss_terms(surface: jax.Array, occupancy: jax.Array, offset: jax.Array) -> Terms:
    """The losses of a shape given points on its surface [P, 3] in object coordinates."""
    probabilities = topology_probabilities(occupancy, TOPOLOGIES)
    return Terms(
        point_to_mesh(to_grid(surface, len(offset) - 1), probabilities, offset),
        occupancy_prior(occupancy),
        smoothness(occupancy),
        curvature(probabilities, offset),
    )


@jax.jit
def likeliest(occupancy: jax.Array) -> jax.Array:
    """The most probable topology of each cell among `VISIBLE`: [N, N, N]."""
    return jnp.asarray(VISIBLE)[topology_probabilities(occupancy, VISIBLE).argmax(axis=0)]


_FACES = np.zeros((256, 4, 3), int)
for _topology in VISIBLE:
    _FACES[_topology, : len(triangles_of(_topology))] = np.reshape(triangles_of(_topology), (-1, 3))
_NUM_FACES = np.array([len(triangles_of(t)) for t in range(256)])


def extract_mesh(occupancy: np.ndarray, offset: np.ndarray) -> trimesh.Trimesh:
    """The mesh of the most probable topology of each cell, in object coordinates; without faces where all are empty.

    Neighbouring cells share the vertex on a common edge. Faces are oriented outwards: the reverse of the official ones. Each
    cell chooses for itself, so that the mesh may have boundaries, as it has where it leaves the box.
    """
    n = len(offset) - 1
    topologies = np.asarray(likeliest(occupancy))
    i, number = np.nonzero(np.arange(4) < _NUM_FACES[topologies].reshape(-1, 1))
    edges = _FACES[topologies.ravel()[i], number][:, ::-1]  # [F, 3]
    ends = np.stack(np.unravel_index(i, (n, n, n)), axis=-1)[:, None] + EDGE_ENDS[edges]  # [F, 3, 3]
    places = np.ravel_multi_index((*np.moveaxis(ends, -1, 0), EDGE_AXES[edges]), (n + 1, n + 1, n + 1, 3))
    used, faces = np.unique(places, return_inverse=True)
    *ends, axes = np.unravel_index(used, (n + 1, n + 1, n + 1, 3))
    vertices = np.stack(ends, axis=-1).astype(np.float64)
    vertices[np.arange(len(used)), axes] -= 0.5 + np.asarray(offset, np.float64).ravel()[used]
    return trimesh.Trimesh(BOX * (vertices / n - 0.5), faces.reshape(-1, 3), process=False)
