"""Pixel2Mesh: its template, its losses, from data to scores and from a photo to a mesh (numbers: tests/parity_test.py)."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from parity.golden import find_golden, read_golden
from PIL import Image
from untrained import untrained

from onet_jax import InputError, models
from onet_jax.configs import pixel2mesh
from onet_jax.convert import official
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import in_order
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.geometry.cameras import Camera, object_camera, project, r2n2_camera
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.models import pixel2mesh as paper
from onet_jax.networks import graph
from onet_jax.networks.fast_gradients import reverse_mode


def small(**data):
    """The config of a network that compiles in seconds."""
    config = pixel2mesh('tiny')
    with config.unlocked():
        config.model.update(encoder_hidden_size=1, decoder_hidden_size=4)
        config.data.update(image_size=32, num_target_points=50, **data)
        config.train.update(num_steps=2, batch_size=2, log_every_steps=1, eval_every_steps=2, checkpoint_every_steps=2)
        config.optim.update(warmup_steps=1)
        config.eval.batch_size = 3
    return config


def refine(template):
    """The vertices of the finest level where nothing is deformed."""
    vertices = template.vertices
    for level in template.levels[:-1]:
        vertices = np.concatenate([vertices, vertices[level.edges].mean(axis=1)])
    return vertices


def test_a_camera_in_another_unit_sees_the_same():
    """The pixels of all points stay, and the object is as far away as asked; of an unknown place the rotation stays."""
    rng = np.random.default_rng(0)
    camera = r2n2_camera(np.float64([30, 200]), 20.0, np.float64([1.5, 3.0]))
    world_mat = np.asarray(paper.at_distance(1.4, camera.world_mat))
    np.testing.assert_allclose(np.linalg.norm(world_mat[:, :, 3], axis=1), 1.4, rtol=1e-6)
    points = rng.uniform(-0.5, 0.5, (2, 20, 3))
    seen = [project(camera._replace(world_mat=matrix), points)[0] for matrix in (camera.world_mat, world_mat)]
    np.testing.assert_allclose(*seen, rtol=1e-4)
    unknown = camera.world_mat.copy()
    unknown[:, :, 3] = np.nan
    np.testing.assert_array_equal(paper.at_distance(1.4, unknown.astype(np.float32)), unknown.astype(np.float32))


def test_the_template_is_a_closed_ellipsoid_in_three_levels_that_looks_outwards():
    template = graph.make_ellipsoid()
    assert [level.num_vertices for level in template.levels] == [156, 618, 2466]
    assert [len(level.edges) for level in template.levels] == [462, 1848, 7392]
    mesh = trimesh.Trimesh(refine(template), template.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    outwards = (mesh.triangles_center - mesh.center_mass) * mesh.face_normals
    assert (outwards.sum(axis=1) > 0).all(), 'also of the parts of a face'
    np.testing.assert_array_equal(
        np.sort(mesh.edges_unique, axis=0), np.sort(np.sort(template.levels[-1].edges), axis=0)
    )
    inner = (template.vertices / [1, -1, -1] * graph.UNIT - graph.CENTRE) / graph.SEMI_AXES
    radii = np.linalg.norm(inner, axis=1)
    assert radii.min() > 0.96
    assert radii.max() < 1 + 1e-5, 'linear interpolation between points of the grid is inside of an ellipsoid'


def test_the_template_is_the_official_one():
    name = 'conv/pixel2mesh/full_official_ellipsoid.npz'
    if find_golden(name) is None:
        pytest.skip(f'golden file {name} not found (set ONET_JAX_SHARED)')
    data, template = read_golden(name), graph.make_ellipsoid()
    # Both are rounded to 6 decimals before they are divided by 0.57; float32 rounds four coordinates the other way.
    differences = np.abs(template.vertices - data['out/before1'][0])
    assert differences.max() < 2e-6
    assert (differences > 0).sum() <= 4
    # What comes after a block has the middles of the official edges, in their order.
    for i, level in enumerate(template.levels[:-1], start=1):
        vertices = data[f'out/pred{i}'][0]
        middles = data[f'out/before{i + 1}'][0][len(vertices) :]
        np.testing.assert_allclose(vertices[level.edges].mean(axis=1), middles, atol=1e-6)


def dense(level, weights, diagonal=0.0):
    """The matrix of a level, entry by entry."""
    matrix = np.zeros((level.num_vertices,) * 2)
    for numbers, values in zip(level.neighbours, weights, strict=True):
        matrix[np.arange(level.num_vertices), numbers] += values
    return matrix + diagonal * np.eye(level.num_vertices)


def test_the_scaled_laplacian_has_its_definition_and_its_gradient():
    level = graph.make_ellipsoid().levels[0]
    adjacency = dense(level, level.adjacency)
    expected = np.zeros_like(adjacency)
    expected[tuple(level.edges.T)] = expected[tuple(level.edges.T[::-1])] = 1
    np.testing.assert_array_equal(adjacency, expected)
    root = np.diag(adjacency.sum(axis=0) ** -0.5)
    laplacian = np.eye(156) - root @ adjacency @ root
    scaled = 2 * laplacian / np.linalg.eigvalsh(laplacian)[-1] - np.eye(156)
    np.testing.assert_allclose(dense(level, level.support, level.diagonal), scaled, atol=1e-12)
    x, weights = np.random.default_rng(0).normal(size=(2, 1, 156, 3)).astype(np.float32)
    for fast in (False, True):
        with reverse_mode(fast):
            value, gradient = jax.jit(jax.value_and_grad(lambda x: (graph.propagate(level, x) * weights).sum()))(x)
        assert value == pytest.approx((scaled @ x[0] * weights[0]).sum(), rel=1e-5)
        np.testing.assert_allclose(gradient[0], scaled.T @ weights[0], atol=1e-5)


def test_maps_are_sampled_where_vertices_project_to_and_are_zero_beyond():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 7, 7, 2)).astype(np.float32)
    camera_mat = r2n2_camera(0, 0, 1).camera_mat[None].astype(np.float32)
    points = rng.uniform([-1, -1, 1], [1, 1, 2], (1, 200, 3)).astype(np.float32)

    @jax.jit
    def sample(points):
        (sampled,) = graph.sample_maps([features], camera_mat, points)
        return sampled

    found = sample(points)
    pixels, _ = project(Camera(np.eye(3, 4), camera_mat[0].astype(np.float64)), points[0].astype(np.float64))
    expected = np.zeros((200, 2))
    for n, (x, y) in enumerate(pixels / 137 * 6):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                if 0 <= column < 7 and 0 <= row < 7:
                    expected[n] += features[0, row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    assert (expected == 0).all(axis=1).sum() > 20
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    # Where a network whose ReLUs are all off puts its vertices.
    gradient = jax.jit(jax.grad(lambda points: sample(points).sum()))(np.zeros_like(points))
    assert np.isfinite(gradient).all()


def test_losses_equal_their_definitions_vertex_by_vertex():
    rng, template = np.random.default_rng(0), graph.make_ellipsoid()
    level = template.levels[0]
    before, after = rng.normal(size=(2, 156, 3))
    surface, normals = rng.normal(size=(2, 40, 3))
    with jax.enable_x64(True):
        measure = jax.jit(partial(paper._measure_block, level))
        found = measure(*(x[None] for x in (after, before, surface, normals)))
    distances = np.linalg.norm(after[:, None] - surface, axis=2)
    entries = [(i, i) for i in range(156)] + [tuple(e) for e in np.concatenate([level.edges, level.edges[:, ::-1]])]
    edge, cosines, change = [], [], np.zeros(156)
    for i, j in entries:
        along, normal = after[i] - after[j], normals[distances[i].argmin()]
        edge.append(along @ along)
        cosines.append(abs(along @ normal) / max(np.linalg.norm(along) * np.linalg.norm(normal), 1e-12))
    for i in range(156):
        around = [b if a == i else a for a, b in level.edges.tolist() if i in (a, b)]
        change[i] = np.square((before[i] - before[around].mean(0)) - (after[i] - after[around].mean(0))).sum()
    expected = {
        'to_vertices': np.square(distances.min(axis=0)).mean(),
        'to_samples': np.square(distances.min(axis=1)).mean(),
        'edge': np.mean(edge),
        'normal': np.mean(cosines),
        'laplace': change.mean(),
        'move': np.square(before - after).sum(axis=1).mean(),
    }
    assert {name: float(value[0]) for name, value in found._asdict().items()} == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_a_vertex_on_another_has_no_direction_and_a_gradient():
    level = graph.make_ellipsoid().levels[0]
    after, normals = jnp.zeros((1, 156, 3)), jnp.ones((1, 5, 3))

    def loss(after):
        return paper._measure_block(level, after, after + 1, normals, normals).normal.sum()

    value, gradient = jax.value_and_grad(loss)(after)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.slow
def test_from_a_dataset_to_scores_and_from_photos_to_files(dataset, tmp_path, capsys):
    config = small()
    method, params = untrained(config)
    results = list(evaluate(method, params, config, open_dataset(dataset), 'test'))
    assert len(results) == 3
    for result in results:
        assert isinstance(result.prediction, trimesh.Trimesh)
        assert result.prediction.is_watertight
        assert np.isfinite(list(result.scores.values())).all()
    # Views as in the official data, with their cameras, and a photo of which nothing is known.
    views = tmp_path / 'views'
    views.mkdir()
    cameras = [r2n2_camera(azimuth, 27, 0.8) for azimuth in (0, 90)]
    stored = {f'{name}_{i}': array for i, camera in enumerate(cameras) for name, array in camera._asdict().items()}
    np.savez(views / 'cameras.npz', **stored)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    for name in ('000', '001', 'photo'):
        image.save(views / f'{name}.png')
    reconstruct_files(method, params, config, views, tmp_path / 'out', 'ply')
    said = capsys.readouterr().out
    assert said.count('the camera is not known') == 1
    assert 'photo.png: warning' in said
    first, second, unknown = (
        trimesh.load(tmp_path / f'out/{name}.ply', process=False) for name in ('000', '001', 'photo')
    )
    # One picture is one mesh in the camera frame, which stands where the camera says.
    pairs = zip((first, second), (camera.world_mat for camera in cameras), strict=True)
    seen = [mesh.vertices @ world[:, :3].T + world[:, 3] for mesh, world in pairs]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-4)
    np.testing.assert_allclose(unknown.bounds.mean(axis=0), 0, atol=1e-5)
    assert unknown.extents.max() == pytest.approx(1, abs=1e-5)
    assert set(json.loads((tmp_path / 'out/manifest.json').read_text())['items']) == {'000', '001', 'photo'}


def test_a_camera_that_mirrors_turns_no_face_inside():
    template = graph.make_ellipsoid()
    world_mat = r2n2_camera(30, 20, 0.8).world_mat
    for mirror in ([1, 1, 1], [-1, 1, 1]):
        mesh = paper.make_mesh(refine(template), np.diag(mirror) @ world_mat, template.faces)
        assert mesh.volume == pytest.approx(0.2323, abs=1e-3)


def test_inputs_come_in_the_order_of_their_fields():
    assert in_order({'camera_mat': 3, 'image': 1, 'world_mat': 2}) == [1, 2, 3]


@pytest.fixture(scope='module')
def network():
    return untrained(small())


ASIDE = np.array([[[150.0, 0, 900], [0, 150, 68.5], [0, 0, 1]]])


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'image': np.zeros((1, 40, 40, 3), np.float32)},
            r'image: expected \[B, 32, 32, 3\].*found .* \[1, 40, 40, 3\]',
        ),
        ({'camera_mat': ASIDE}, 'camera 0: expected one that looks at the object.*of the template'),
        ({'world_mat': -r2n2_camera(0, 0, 1).world_mat[None]}, "camera 0: expected .*no vertex of the object's cube"),
        ({'image': np.full((1, 32, 32, 3), np.nan, np.float32)}, 'images: expected finite numbers'),
        ({'camera_mat': np.full((1, 3, 3), np.inf)}, 'camera_mat: expected finite numbers'),
    ],
)
def test_bad_inputs_are_named(network, changes, message):
    method, params = network
    camera = object_camera(r2n2_camera(10, 27, 0.8), np.zeros(3), 0.7)
    good = {'image': np.zeros((1, 32, 32, 3), np.float32), **{k: v[None] for k, v in camera._asdict().items()}}
    with pytest.raises(InputError, match=message):
        method.predict(params, {**good, **changes}, jax.random.key(0))


def test_bad_configs_and_templates_are_named():
    for changes, message in (
        ({'inputs': ('image',)}, r"config.data.inputs: expected \('image', 'camera'\)"),
        ({'augment': True}, 'config.data.augment: expected False'),
    ):
        with pytest.raises(InputError, match=message):
            models.build(small(**changes))
    template = graph.make_ellipsoid()
    for levels in (template.levels[:2], (template.levels[0], *template.levels[:2])):
        with pytest.raises(InputError, match='template: expected 3 levels of'):
            graph.check_template(template._replace(levels=levels))


def test_the_network_has_the_official_weights():
    path = find_golden('conv/state_dict_shapes.json')
    if path is None:
        pytest.skip('golden file conv/state_dict_shapes.json not found (set ONET_JAX_SHARED)')
    table, config = json.loads(path.read_text())['onet_repo/img/pixel2mesh'], pixel2mesh()
    shapes = official.variable_shapes(models.build(config), config)
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in table.items()}
    written = official.to_state_dict(official.from_state_dict(empty, shapes, config), config)
    assert {name: list(x.shape) for name, x in written.items()} == table
    assert sum(x.size for x in written.values()) == 16_839_545
