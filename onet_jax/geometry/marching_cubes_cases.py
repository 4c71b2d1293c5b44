"""The case table of marching cubes, derived: the triangles of a cell for each of the 256 sign patterns of its corners.

Corner 4 i + 2 j + k of a cell lies at (i, j, k) in {0, 1}^3; bit c of a case says that corner c is inside. Edge 3 * corner +
axis starts at the lower one of its corners; the surface has a vertex on each edge whose ends differ. A side is one of the six
squares of a cell.

The surface crosses a side in segments that cut the inside corners off. Where the inside corners of a side are two diagonal ones
(the ambiguous case), each is cut off by itself. This rule depends on the four signs alone, so the two cells at a side agree,
and the surface has no holes. A segment runs from the edge on which a counterclockwise tour of the side, seen from outside the
cell, enters the inside to the edge on which it leaves. Every edge is entered on one of its two sides and left on the other, so
segments join to loops; a neighbouring cell has the same segment in the opposite direction, so all loops are oriented outwards.

Loops are triangulated. No diagonal lies in a side of the cell, where the neighbour could have the same one: segments are shared
by two cells and diagonals by none, so each edge of the mesh has two faces. Each vertex has one loop in each of the four cells
around its edge, hence one ring of faces: the surface is a manifold.
"""

import numpy as np

from onet_jax.geometry.grid import CORNERS

MIN_SHARE = 1e-4  # of an edge, between a vertex and its ends: vertices that share an end stay apart in float32
BITS = (4, 2, 1)  # of the corner's number, for each axis

Loop = tuple[int, ...]  # edges in the order of the boundary, counterclockwise seen from outside the surface


def _sides() -> list[tuple[int, ...]]:
    """The corners of the six sides of a cell, counterclockwise seen from outside."""
    sides = []
    for axis in range(3):
        u, v = BITS[(axis + 1) % 3], BITS[(axis + 2) % 3]
        tour = (0, u, u | v, v)
        sides += [tour[::-1], tuple(corner | BITS[axis] for corner in tour)]
    return sides


def _edge(a: int, b: int) -> int:
    """The edge between two corners."""
    return 3 * (a & b) + BITS.index(a ^ b)


SIDES = _sides()
EDGES_OF_SIDES = [{_edge(side[k - 1], side[k]) for k in range(4)} for side in SIDES]


def trace_loops(case: int) -> list[Loop]:
    """The loops of a case: the boundaries of the surface in the cell."""
    following = {}
    for side in SIDES:
        inside = [case >> corner & 1 for corner in side]
        for first in range(4):
            if inside[first] and not inside[first - 1]:
                after = first + 1
                while inside[after % 4]:
                    after += 1
                entered = _edge(side[first - 1], side[first])
                following[entered] = _edge(side[(after - 1) % 4], side[after % 4])
    loops = []
    while following:
        loop = [next(iter(following))]
        while (edge := following.pop(loop[-1])) != loop[0]:
            loop.append(edge)
        loops.append(tuple(loop))
    return loops


def triangulate(loop: Loop) -> list[Loop]:
    """Triangulate a loop by the diagonals of least total length, none of them in a side of the cell."""

    def diagonal(i: int, j: int) -> float:
        if j - i == 1:
            return 0.0
        if any({loop[i], loop[j]} <= edges for edges in EDGES_OF_SIDES):
            return np.inf
        return float(np.linalg.norm(_middle(loop[i]) - _middle(loop[j])))

    def cut(i: int, j: int) -> tuple[float, list[Loop]]:
        """Total length of the diagonals, and triangles, of the polygon i..j."""
        if j - i < 2:
            return 0.0, []
        choices = []
        for k in range(i + 1, j):
            (before, left), (after, right) = cut(i, k), cut(k, j)
            length = before + after + diagonal(i, k) + diagonal(k, j)
            choices.append((length, [*left, (loop[i], loop[k], loop[j]), *right]))
        return min(choices)

    return cut(0, len(loop) - 1)[1]


def _middle(edge: int) -> np.ndarray:
    corner, axis = divmod(edge, 3)
    return CORNERS[corner] + 0.5 * np.eye(3)[axis]


def _tabulate() -> tuple[np.ndarray, np.ndarray]:
    cases = [[face for loop in trace_loops(case) for face in triangulate(loop)] for case in range(256)]
    num_faces = np.array([len(faces) for faces in cases], np.int32)
    table = np.zeros((256, num_faces.max(), 3), np.int32)
    for case, faces in enumerate(cases):
        table[case, : len(faces)] = np.reshape(faces, (-1, 3))
    return table, num_faces


FACES, NUM_FACES = _tabulate()  # [256, 5, 3]: the edges on which a face has its vertices; [256]: number of faces
