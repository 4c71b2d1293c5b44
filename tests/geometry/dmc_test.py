"""Deep Marching Cubes beside slow, obvious twins; meshes of known shapes."""

from itertools import product

import jax
import numpy as np
import pytest
import trimesh

from onet_jax.geometry import dmc

N = 3


def random_shape(seed=0, n=N):
    """Occupancy and offsets of n^3 cells."""
    rng = np.random.default_rng(seed)
    occupancy = rng.uniform(size=(n + 1,) * 3).astype(np.float32)
    return occupancy, rng.uniform(-0.5, 0.5, (n + 1, n + 1, n + 1, 3)).astype(np.float32)


def vertex(offset, cell, edge):
    """The vertex of an edge of a cell, relative to the cell, and the place of its offset."""
    end, axis = dmc.EDGE_ENDS[edge], dmc.EDGE_AXES[edge]
    place = (*(np.asarray(cell) + end), axis)
    position = end.astype(np.float64)
    position[axis] = 0.5 - offset[place]
    return position, tuple(map(int, place))


def slow_probability(occupancy, cell, topology):
    corners = [occupancy[tuple(np.asarray(cell) + corner)] for corner in dmc.CORNERS]
    return np.prod([1.0 - o if topology >> v & 1 else o for v, o in enumerate(corners)])


def test_a_topology_has_the_probability_of_its_corners():
    occupancy, _ = random_shape()
    found = np.asarray(jax.jit(dmc.topology_probabilities)(occupancy, np.arange(256)))
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
    for topology, cell in product(range(256), product(range(N), repeat=3)):
        assert found[topology, *cell] == pytest.approx(slow_probability(occupancy, cell, topology), rel=1e-5)


def slow_distance(point, a, b, c):
    """Squared distance of a triangle: barycentric coordinates of the projection, clamped to the triangle."""
    u, v, w = b - a, c - a, a - point
    area = max(u @ u * (v @ v) - (u @ v) ** 2, 1e-8)
    s, t = max((u @ v * (v @ w) - v @ v * (u @ w)) / area, 0), max((u @ v * (u @ w) - u @ u * (v @ w)) / area, 0)
    s, t = np.array([s, t]) / max(s + t, 1)
    return np.square(w + s * u + t * v).sum()


def test_the_loss_of_points_is_the_expected_distance_from_the_triangles_of_their_cell():
    """Cells without points, and points outside, on the last face too, are in it."""
    occupancy, offset = random_shape(1)
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(0, N, (12, 3)), [[1, 2, 0], [N, 1, 1], [-0.1, 1, 1], [1e6, 0, 0]]])
    total = 0.0
    for cell in product(range(N), repeat=3):
        here = [point - cell for point in points if (np.floor(point) == cell).all()]
        probabilities = np.array([slow_probability(occupancy, cell, t) for t in dmc.TOPOLOGIES])
        distances = []
        for topology in dmc.TOPOLOGIES:
            triangles = [[vertex(offset, cell, e)[0] for e in triangle] for triangle in dmc.triangles_of(topology)]
            if triangles:
                nearest = [min(slow_distance(point, *triangle) for triangle in triangles) for point in here]
                distances.append(np.mean(nearest) if here else 0.4)
            else:
                distances.append(None)
        none = 10 * max(filter(None, distances)) if here else 0
        # A complement has the triangles of its topology.
        np.testing.assert_allclose(distances[:47], distances[:48:-1])
        distances = [none if distance is None else distance for distance in distances]
        total += probabilities @ distances / probabilities.sum()

    @jax.jit
    def distance(points, occupancy, offset):
        return dmc.point_to_mesh(points, dmc.topology_probabilities(occupancy, dmc.TOPOLOGIES), offset)

    found = distance(points.astype(np.float32), occupancy, offset)
    assert float(found) == pytest.approx(total / N**3, rel=1e-5)


def test_distances_are_exact_where_the_nearest_point_is_inside_of_the_triangle():
    rng = np.random.default_rng(2)
    corners = rng.uniform(size=(3, 40, 3))
    points = rng.uniform(size=(30, 3))
    arrays = (array.astype(np.float32) for array in (points.T, *corners[..., None]))
    found = np.asarray(jax.jit(dmc.point_triangle_distance)(*arrays))
    triangles = np.moveaxis(corners, 0, 1)
    for point, distances in zip(points, found.T, strict=True):
        exact = np.square(trimesh.triangles.closest_point(triangles, np.tile(point, (40, 1))) - point).sum(axis=1)
        assert (distances >= exact - 1e-6).all()
        projected = trimesh.triangles.points_to_barycentric(triangles, np.tile(point, (40, 1)))
        inside = (projected >= 0).all(axis=1)
        np.testing.assert_allclose(distances[inside], exact[inside], atol=1e-5)


def slow_curvature(weights, offset):
    """Over all pairs of triangles that have two vertices in common, of neighbouring cells, or of one topology in a cell."""
    owners = dmc.TRIANGLE_TOPOLOGIES
    normals, places = {}, {}
    for cell in product(range(N), repeat=3):
        edges = [vertex(offset, cell, e) for e in range(12)]
        a, b, c = np.array([[edges[e][0] for e in triangle] for triangle in dmc.TRIANGLES]).swapaxes(0, 1)
        normal = np.cross(b - a, c - a)
        normals[cell] = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        places[cell] = [{edges[e][1] for e in triangle} for triangle in dmc.TRIANGLES]
    total = 0.0
    for cell in product(range(N), repeat=3):
        for axis in (None, 0, 1, 2):
            other = cell if axis is None else tuple(np.asarray(cell) + np.eye(3, dtype=int)[axis])
            if other in normals:
                joined = np.array([[len(p & q) == 2 for q in places[other]] for p in places[cell]])
                joined = joined & (owners[:, None] == owners) if axis is None else joined
                bend = np.square(normals[cell][:, None] - normals[other]).sum(axis=-1)
                total += (joined * np.outer(weights[owners, *cell], weights[owners, *other]) * bend).sum()
    return total


@pytest.mark.slow
def test_the_curvature_is_the_sum_over_all_pairs_of_triangles_that_share_an_edge():
    _, offset = random_shape(3)
    weights = np.random.default_rng(3).uniform(size=(96, N, N, N)).astype(np.float32)
    found = sum(float(term.sum()) for term in dmc.curvature_terms(weights, offset))
    assert found == pytest.approx(slow_curvature(weights, offset), rel=1e-5)


def test_the_table_is_the_classical_one():
    luts = pytest.importorskip('skimage.measure._marching_cubes_lewiner_luts', exc_type=ImportError)
    import base64

    shape, text = luts.CASESCLASSIC
    for row, topology in zip(np.frombuffer(base64.b64decode(text), np.int8).reshape(shape), range(256), strict=True):
        assert row[row >= 0].tolist() == [edge for triangle in dmc.triangles_of(topology) for edge in triangle]


def ball(n, radius):
    """Occupancy and offsets of a ball around 0, exact on the edges of the lattice; the radius in object coordinates."""
    axis = dmc.BOX * (np.arange(n + 1) / n - 0.5)
    place = np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1)
    offset, squares = np.zeros_like(place), np.square(place)
    for k in range(3):
        across = radius**2 - (squares.sum(axis=-1) - squares[..., k])
        crossing = np.sign(place[..., k] - 1e-9) * np.sqrt(np.maximum(across, 0))
        offset[..., k] = np.clip((place[..., k] - crossing) * n / dmc.BOX - 0.5, -0.5, 0.5)
    return 1 / (1 + np.exp(60 * (np.sqrt(squares.sum(axis=-1)) - radius))), offset


def test_a_ball_gives_a_closed_mesh_that_faces_outwards():
    mesh = dmc.extract_mesh(*ball(16, 0.4))
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.03)
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.4, atol=1e-6)


def test_without_an_inside_the_mesh_is_empty():
    occupancy, offset = random_shape()
    for value in (0, 1):
        mesh = dmc.extract_mesh(np.full_like(occupancy, value), offset)
        assert len(mesh.faces) == len(mesh.vertices) == 0


@pytest.mark.slow
@pytest.mark.parametrize('value', [0, 1])
def test_gradients_of_a_saturated_network_are_finite(value):
    """All triangles are points or lines there."""
    occupancy, offset = np.full((N + 1,) * 3, value, np.float32), np.full((*(N + 1,) * 3, 3), value - 0.5, np.float32)
    surface = np.random.default_rng(0).uniform(-0.6, 0.6, (20, 3)).astype(np.float32)
    loss = jax.jit(jax.grad(lambda *shape: sum(dmc.loss_terms(*shape)), argnums=(1, 2)))
    gradients = loss(surface, occupancy, offset)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
