import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from lattices import corner_points
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from onet_jax.geometry import extract, marching_cubes_cases
from onet_jax.geometry.batched_extraction import (
    MISE_CHUNK,
    PAD_VALUE,
    extract_meshes,
    marching_cubes,
    multiresolution_grids,
)
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.mise import multiresolution_grid


def solid(params, points):
    """A torus about the y axis of radius params[0] and thickness params[1] (a ball for radius 0), centre params[2:5]."""
    x, y, z = (points - params[2:]).T
    return params[1] - jnp.hypot(jnp.hypot(x, z) - params[0], y)


def solids(*rows):
    return Partial(solid, jnp.asarray(rows, jnp.float32))


BALL, RING = (0, 0.3, 0, 0, 0), (0.3, 0.08, 0, 0, 0)
SIX = {'resolution': 4, 'upsampling_steps': 2, 'level': 0.0}  # of six shapes: one program serves several tests
OTHERS = [(0, 0.12, 0.2, -0.1, 0.3), (0.25, 0.1, 0.05, 0, 0), (0, -0.2, 0, 0, 0), (0, 0.3, 0.5, 0.5, 0.4)]


def hashed(num_inside, points, *, finest):
    """The field of hashed signs of the golden hanging-node cases."""
    x, y, z = jnp.rint((points.T / BOX + 0.5) * finest).astype(jnp.int32)
    h = (73 * x + 151 * y + 283 * z + 29 * ((x * y) % 17) + 31 * ((y * z) % 13)) % 997
    return jnp.where(h < num_inside, 1, -1) * (1 + h / 1000)


def row(field, b):
    return jax.jit(jax.tree.map(lambda leaf: leaf[b], field))


def unpad(grids, num_shapes):
    """The values [B, R + 1, R + 1, R + 1] without the border, which is checked."""
    m = round((grids.values.size // num_shapes) ** (1 / 3))
    values = np.asarray(grids.values).reshape(num_shapes, m, m, m)
    inner = values[:, 1:-1, 1:-1, 1:-1]
    assert (values == PAD_VALUE).sum() == values.size - inner.size
    return inner


def check_against_the_host(grids, field, num_shapes, **settings):
    for b, values in enumerate(unpad(grids, num_shapes)):
        expected = multiresolution_grid(row(field, b), **settings)
        assert grids.queried[b] == sum(expected.queried_per_round)
        np.testing.assert_allclose(values, expected.values, rtol=2e-6, atol=1e-7)


def test_grids_of_different_shapes_equal_those_of_the_host():
    field = solids(BALL, RING, *OTHERS)
    grids = multiresolution_grids(field, 6, **SIX)
    assert unpad(grids, 6).shape == (6, 17, 17, 17)
    assert grids.values.dtype == jnp.float32
    assert grids.queried[:2].tolist() == [1293, 975]
    assert not grids.non_finite.any()
    check_against_the_host(grids, field, 6, **SIX)


@pytest.mark.parametrize(
    'resolution, steps, counts', [(2, 3, {15: 84, 40: None, 3: None}), (4, 2, {20: 639, 400: None})]
)
def test_hanging_nodes_split_coarse_cells_in_later_rounds(resolution, steps, counts):
    """Shapes that need different numbers of rounds share them."""
    field = Partial(Partial(hashed, finest=resolution << steps), jnp.asarray(list(counts)))
    settings = {'resolution': resolution, 'upsampling_steps': steps, 'level': 0.0}
    grids = multiresolution_grids(field, len(counts), **settings)
    assert grids.queried[0] == next(iter(counts.values()))
    check_against_the_host(grids, field, len(counts), **settings)


def test_rounds_of_several_chunks_and_a_level_that_is_not_zero():
    field, settings = solids(RING, BALL), {'resolution': 21, 'upsampling_steps': 1, 'level': -0.05}
    grids = multiresolution_grids(field, 2, **settings)
    assert MISE_CHUNK < 22**3 < grids.queried[0] < grids.queried[1]
    check_against_the_host(grids, field, 2, **settings)


def test_without_splits_the_grid_is_dense():
    grids = multiresolution_grids(solids(BALL), 1, resolution=6, upsampling_steps=0, level=0.0)
    assert grids.queried.tolist() == [343]
    expected = solid(np.float32(BALL), corner_points(7).reshape(-1, 3).astype(np.float32)).reshape(7, 7, 7)
    np.testing.assert_allclose(unpad(grids, 1)[0], expected, atol=1e-6)


def num_operations(program):
    return program.as_text().count(' = ')


def test_programs_do_not_grow_with_the_lattice():
    """Searches and fills are loops: a compiler may take exponential time for a chain of operations that grows with R."""

    def lower(resolution, steps, num_shapes=2):
        return multiresolution_grids.lower(
            solids(*[RING] * num_shapes), num_shapes, resolution=resolution, upsampling_steps=steps, level=0.0
        )

    for steps, sizes in {1: (4, 21, 64), 2: (4, 32, 64)}.items():
        assert len({num_operations(lower(resolution, steps)) for resolution in sizes}) == 1
    grids = (jax.ShapeDtypeStruct((m**3,), jnp.float32) for m in (11, 131))
    assert len({num_operations(marching_cubes.lower(grid, 0.0, 64)) for grid in grids}) == 1
    for program in (lower(21, 1), lower(4, 2, num_shapes=6)):
        assert num_operations(program.compile()) < 1700


def test_values_that_are_not_finite_are_counted_for_each_shape():
    field = solids(BALL, (0, np.nan, 0, 0, 0), (0, np.inf, 0, 0, 0), RING, BALL, RING)
    grids = multiresolution_grids(field, 6, **SIX)
    assert grids.non_finite.tolist() == [0, 125, 125, 0, 0, 0]
    assert np.isneginf(unpad(grids, 6)[1:3]).all()


def test_senseless_arguments_are_refused():
    settings = {'upsampling_steps': 1, 'level': 0.0}
    with pytest.raises(ValueError, match='resolution >= 1'):
        multiresolution_grids(solids(BALL), 1, resolution=0, **settings)
    with pytest.raises(ValueError, match=r'leading axis of 2 shapes, found \[\(1, 5\)\]'):
        multiresolution_grids(solids(BALL), 2, resolution=2, **settings)
    with pytest.raises(ValueError, match=rf'expected values of shape \({MISE_CHUNK},\)'):
        multiresolution_grids(Partial(lambda points: points), 1, resolution=2, **settings)


def to_mesh(triangles):
    """The surface as a mesh; checks that it is complete."""
    v, f = int(triangles.num_vertices), int(triangles.num_faces)
    assert v <= len(triangles.vertices)
    assert f <= len(triangles.faces)
    return extract.trimesh.Trimesh(triangles.vertices[:v], triangles.faces[:f], process=False)


CAPACITY = 1 << 14


def pad_and_march(values, level, capacity):
    """`marching_cubes` of values [n, n, n], which get a border."""
    padded = jnp.pad(jnp.asarray(values, jnp.float32), 1, constant_values=PAD_VALUE)
    return marching_cubes(padded.ravel(), level, capacity)


def march(values):
    return to_mesh(pad_and_march(values, 0.0, CAPACITY))


def check_closed(mesh):
    """Each edge has two faces, each vertex one ring of faces, no face is degenerate, and outside is outwards."""
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert mesh.area_faces.min() > 0
    # Corners of faces, joined where two faces at a vertex share an edge: as many groups as vertices.
    corner_at = coo_array((np.arange(mesh.faces.size), (np.repeat(np.arange(len(mesh.faces)), 3), mesh.faces.ravel())))
    corner_at = corner_at.tocsr()
    first, second = (
        corner_at[np.repeat(mesh.face_adjacency[:, side], 2), mesh.face_adjacency_edges.ravel()] for side in (0, 1)
    )
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(mesh.faces.size,) * 2)
    assert connected_components(graph, directed=False)[0] == len(mesh.vertices)


def largest_distance(a, b):
    return max(cKDTree(a).query(b)[0].max(), cKDTree(b).query(a)[0].max())


def test_no_diagonal_lies_in_a_side_of_a_cell():
    for case in range(256):
        for loop in marching_cubes_cases.trace_loops(case):
            boundary = {frozenset((loop[k - 1], loop[k])) for k in range(len(loop))}
            faces = marching_cubes_cases.triangulate(loop)
            assert len(faces) == len(loop) - 2
            for pair in {frozenset((face[k - 1], face[k])) for face in faces for k in range(3)} - boundary:
                assert not any(pair <= edges for edges in marching_cubes_cases.EDGES_OF_SIDES)


def test_all_256_cases_are_closed_at_once():
    signs = (np.arange(256)[:, None] >> np.arange(8) & 1).reshape(256, 2, 2, 2)
    march_all = jax.jit(jax.vmap(lambda grid: pad_and_march(grid, 0.5, 32)))
    all_triangles = jax.device_get(march_all(signs.astype(np.float32)))
    assert all_triangles.num_faces[0] == 0
    for case in range(1, 256):
        check_closed(to_mesh(jax.tree.map(lambda leaf, case=case: leaf[case], all_triangles)))


@pytest.mark.slow
@pytest.mark.parametrize('n', [6, 9])
def test_noise_stays_closed(n):
    """Noise up to the box, values on the level, huge and tiny ones, single and diagonal neighbours."""
    rng = np.random.default_rng(n)
    for grid in (
        rng.normal(size=(n, n, n)),
        rng.integers(-1, 2, (n, n, n)),
        rng.normal(size=(n, n, n)) * 10.0 ** rng.integers(-15, 15, (n, n, n)),
        rng.random((n, n, n)) - 0.8,
        rng.random((n, n, n)) - 0.2,
        (-1.0) ** np.indices((n, n, n)).sum(axis=0),
    ):
        mesh = march(grid)
        check_closed(mesh)
        assert np.abs(mesh.vertices).max() <= BOX / 2 + 1e-4
        inside, steps = np.pad(np.asarray(grid, np.float32) > 0, 1), [np.s_[1:], np.s_[:, 1:], np.s_[:, :, 1:]]
        crossings = sum((inside[step] != np.roll(inside, 1, axis)[step]).sum() for axis, step in enumerate(steps))
        assert len(mesh.vertices) == crossings


def box(points):
    return (np.array([0.31, 0.22, 0.17]) - np.abs(points)).min(axis=-1)


def ball(points):
    return 0.35 - np.linalg.norm(points, axis=-1)


def ring(points):
    x, y, z = np.moveaxis(points, -1, 0)
    return 0.12 - np.hypot(np.hypot(x, z) - 0.3, y)


@pytest.mark.parametrize('num_points', [32, 33])
@pytest.mark.parametrize(
    'field, euler_number, volume',
    [(ball, 2, 4 / 3 * np.pi * 0.35**3), (ring, 0, 2 * np.pi**2 * 0.3 * 0.12**2), (box, 2, 8 * 0.31 * 0.22 * 0.17)],
)
def test_no_lattice_shifts_the_surface(field, euler_number, volume, num_points):
    values = field(corner_points(num_points))
    mesh = march(values)
    check_closed(mesh)
    assert mesh.euler_number == euler_number
    np.testing.assert_allclose(mesh.volume, volume, rtol=0.03)
    np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(mesh.center_mass, 0, atol=1e-5)
    assert np.abs(field(mesh.vertices)).max() < 0.35 * BOX / (num_points - 1)
    expected = extract.marching_cubes(values, 0.0)
    assert len(mesh.vertices) == len(expected.vertices)
    assert largest_distance(mesh.vertices, expected.vertices) < 1e-5
    np.testing.assert_allclose(mesh.volume, expected.volume, rtol=2e-3)  # their diagonals differ


def test_all_outside_all_inside_and_reaching_the_box():
    empty = pad_and_march(jnp.zeros((9, 9, 9)), 0.0, CAPACITY)
    assert empty.num_vertices == empty.num_faces == 0
    assert not empty.vertices.any()
    full = march(np.ones((9, 9, 9)))
    check_closed(full)
    assert full.euler_number == 2
    np.testing.assert_allclose(full.bounds, [[-BOX / 2] * 3, [BOX / 2] * 3], atol=2e-5)
    reaching = march(corner_points(9)[..., 0])  # the half of the cube with x > 0
    check_closed(reaching)
    np.testing.assert_allclose(reaching.bounds, [[0, -BOX / 2, -BOX / 2], [BOX / 2] * 3], atol=2e-5)
    np.testing.assert_allclose(reaching.volume, BOX**3 / 2, rtol=1e-3)


def test_the_counts_are_true_when_the_capacity_is_too_small():
    values = jnp.asarray(ball(corner_points(32)), jnp.float32)
    whole, part = pad_and_march(values, 0.0, CAPACITY), pad_and_march(values, 0.0, 128)
    assert part.vertices.shape == (128, 3)
    assert part.faces.shape == (256, 3)
    assert part.num_vertices == whole.num_vertices > 128
    assert part.num_faces == whole.num_faces == 2 * whole.num_vertices - 4
    np.testing.assert_array_equal(part.vertices, whole.vertices[:128])


MESHES = {'resolution': 8, 'upsampling_steps': 1, 'threshold': 0.4}


def logits(params, points):
    return 10 * solid(params, points)


def test_meshes_of_a_batch_equal_those_made_one_by_one():
    field = Partial(logits, *solids(BALL, RING, *OTHERS).args)
    meshes = extract_meshes(field, 6, **MESHES)
    assert [len(mesh.faces) > 0 for mesh in meshes] == [True, True, True, True, False, True]
    for b, mesh in enumerate(meshes):
        expected = extract.extract_mesh(row(field, b), **MESHES)
        assert len(mesh.vertices) >= len(expected.vertices), 'scikit-image merges those at corners of the box'
        if len(mesh.vertices):
            check_closed(mesh)
            assert largest_distance(mesh.vertices, expected.vertices) < 2e-5
            assert mesh.euler_number == expected.euler_number


def waves(frequency, points):
    return jnp.prod(jnp.sin(frequency * points + 0.5), axis=-1)


def test_surfaces_larger_than_the_first_guess_are_complete():
    """17 points, not cells, without MISE."""
    field = Partial(waves, jnp.asarray([60.0, 3.0]))
    meshes = extract_meshes(field, 2, resolution=17, upsampling_steps=0, threshold=0.5)
    assert min(len(mesh.vertices) for mesh in meshes) > 4 * 16**2
    for b, mesh in enumerate(meshes):
        check_closed(mesh)
        expected = extract.extract_mesh(row(field, b), resolution=17, upsampling_steps=0, threshold=0.5)
        # scikit-image puts further vertices into ambiguous cells.
        assert cKDTree(expected.vertices).query(mesh.vertices)[0].max() < 2e-5


def test_bad_arguments():
    for threshold in (0, 1, 1.5, float('nan')):
        with pytest.raises(ValueError, match='threshold: expected a probability'):
            extract_meshes(solids(BALL), 1, threshold=threshold)
    field = Partial(logits, *solids(BALL, (0, np.nan, 0, 0, 0), *OTHERS).args)
    with pytest.raises(
        ValueError, match=r'field: expected finite numbers, found 729 of \d+ not finite, in the shapes \[1\]'
    ):
        extract_meshes(field, 6, **MESHES)


def sheet(x, points):
    return jnp.minimum(0.03 - jnp.abs(points[:, 0] - x), 0.3 - jnp.abs(points[:, 1:]).max(axis=1))


@pytest.mark.slow
def test_seeds_are_those_of_the_host():
    """One sheet is found from a seed alone, the seeds of the other are outside the box."""
    places = jnp.array([0.113, -0.15])
    seeds = np.array([[[0.113, 0.29, -0.2], [0.113, 0.0, 0.0]], [[0.0, 9.0, 0.0], [-9.0, 0.0, 0.0]]], np.float32)
    settings = {'resolution': 4, 'upsampling_steps': 3, 'level': 0.0}
    grids = multiresolution_grids(Partial(sheet, places), 2, seeds=jnp.asarray(seeds), **settings)
    values = unpad(grids, 2)
    for b, x in enumerate(places):
        expected = multiresolution_grid(Partial(sheet, x), seeds=seeds[b], **settings)
        assert grids.queried[b] == sum(expected.queried_per_round)
        np.testing.assert_allclose(values[b], expected.values, atol=1e-6)
    assert (values[0] >= 0).any()
    assert not (values[1] >= 0).any()
