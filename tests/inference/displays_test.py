"""What the viewer shows of files and networks; no server, no page."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from model_configs import small_config
from moving_shapes import NUM_FRAMES, make_egg_model, moving_egg
from PIL import Image
from predictions import predicting
from trimesh.visual import ColorVisuals

from onet_jax.data.posed_views import read_views
from onet_jax.errors import InputError
from onet_jax.geometry.camera_paths import meeting_point, to_poses
from onet_jax.geometry.meshes import save_mesh
from onet_jax.geometry.sequence_files import save_animation, save_frames
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of
from onet_jax.inference.displays import networks, scenes
from onet_jax.inference.displays.files import choose_display
from onet_jax.inference.displays.networks import display_network
from onet_jax.inference.displays.scenes import display_radiance, display_views
from onet_jax.inference.displays.textures import display_textures
from onet_jax.inference.gallery import LEGEND, MISSED
from onet_jax.inference.scene_mesh import Box
from onet_jax.prepare.embedded_scene import render_scene
from onet_jax.viz.pictures import FRONT, UNSUPPORTED, Painted

BALL = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
CLOUD = trimesh.creation.icosphere(subdivisions=4, radius=2.0).vertices
EGG = moving_egg(subdivisions=1)


def as_bytes(colour):
    return np.round(255 * np.array(colour)).astype(np.uint8)


@pytest.fixture
def pair(tmp_path):
    """A ball, and a cloud of its right half with one point in the middle; z points up."""
    save_mesh(BALL, tmp_path / 'ball.stl')
    points = np.concatenate([CLOUD[CLOUD[:, 0] > 0], np.zeros((1, 3))])
    np.save(tmp_path / 'cloud.npy', points)
    return tmp_path / 'ball.stl', tmp_path / 'cloud.npy'


def test_a_mesh_beside_its_cloud_has_the_colours_of_quality_control(pair):
    mesh, cloud = pair
    display = choose_display(mesh, cloud, 'z')()
    assert [control.name for control in display.controls] == ['colours']
    shown = display.make('quality')
    ((seen, painted),) = (item.shapes for item in shown.items)
    assert (shown.titles, shown.legend) == (('input', 'mesh'), LEGEND)
    assert isinstance(painted, Painted)
    missed = (seen.colours == as_bytes(MISSED)).all(axis=1)
    assert missed.sum() == 1, 'the point in the middle'
    x = painted.mesh.vertices[:, 0]
    assert (painted.colours[x < -0.1] == as_bytes(UNSUPPORTED)).all()
    assert (painted.colours[x > 0.1] == as_bytes(FRONT)).all()
    np.testing.assert_allclose(np.ptp(painted.mesh.vertices, axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(seen.points[:, 0].min(), 0, atol=0.02)
    assert '162' not in shown.items[0].caption
    assert '642 vertices, 1,280 faces, closed, longest edge 4; points lie' in shown.items[0].caption
    plain = display.make('plain')
    assert plain.items[0].shapes[1].visual.kind is None
    assert plain.legend == {}


def test_a_file_alone_keeps_its_colours(tmp_path):
    coloured = trimesh.Trimesh(BALL.vertices, BALL.faces, process=False)
    coloured.visual = ColorVisuals(coloured, vertex_colors=np.full((len(BALL.vertices), 4), (9, 8, 7, 255), np.uint8))
    save_mesh(coloured, tmp_path / 'mesh.ply')
    display = choose_display(tmp_path / 'mesh.ply', up='y')()
    ((shape,),) = (item.shapes for item in display.make().items)
    assert (shape.visual.vertex_colors[:, :3] == (9, 8, 7)).all()
    np.save(tmp_path / 'cloud.npy', CLOUD)
    shown = choose_display(tmp_path / 'cloud.npy', up='y')().make()
    assert (shown.titles, shown.items[0].caption) == (('cloud',), f'{len(CLOUD):,} points, longest edge 4')


def test_a_folder_of_reconstructions_is_gone_through(pair, tmp_path):
    mesh, cloud = pair
    done = {'status': 'done', 'vertices': 642, 'faces': 1280}
    items = {
        'a': done | {'mesh': mesh.name, 'input': str(cloud)},
        'gone': done | {'mesh': mesh.name, 'input': str(tmp_path / 'gone.npy')},
        'bad': {'status': 'failed', 'reason': 'why'},
    }
    (tmp_path / 'manifest.json').write_text(json.dumps({'settings': {}, 'items': items, 'written': []}))
    display = choose_display(tmp_path)()
    assert display.controls[0].options == ('a', 'gone')
    assert display.make('a', 'quality').legend == LEGEND
    assert display.make('a', 'plain').titles == ('input', 'reconstruction')
    assert display.make('gone', 'quality').items[0].shapes[0] is None
    with pytest.raises(InputError, match=r'--input: expected none for .*, whose inputs are known'):
        choose_display(tmp_path, cloud)


@pytest.mark.parametrize(
    'sequence, kind',
    [
        (EGG, MeshSequence),
        (ChangingMeshes((*frames_of(EGG)[:2], *frames_of(moving_egg(subdivisions=0))[2:])), ChangingMeshes),
        (CloudSequence(EGG.vertices), CloudSequence),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_numbered_files_are_a_sequence(tmp_path, sequence, kind):
    save_frames(sequence, tmp_path / 'frames', 'ply')
    shown = choose_display(tmp_path / 'frames', up='y')().make()
    ((moving,),) = (item.shapes for item in shown.items)
    assert isinstance(moving, kind)
    points = np.concatenate([frame.vertices for frame in frames_of(moving)])
    np.testing.assert_allclose(np.ptp(points, axis=0).max(), 1, atol=1e-6)
    both = choose_display(tmp_path / 'frames', tmp_path / 'frames', 'y')().make()
    assert both.titles == ('input', 'sequence')


def test_an_animation_is_a_sequence_and_a_mesh_is_none(tmp_path):
    save_animation(EGG, tmp_path / 'egg.glb')
    save_mesh(BALL, tmp_path / 'ball.glb')
    assert isinstance(choose_display(tmp_path / 'egg.glb', up='y')().make().items[0].shapes[0], MeshSequence)
    assert choose_display(tmp_path / 'ball.glb', up='y')().make().titles == ('mesh',)


def test_what_cannot_be_viewed_is_named(pair, tmp_path):
    mesh, cloud = pair
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'empty: expected a mesh or a cloud .*, found another folder'):
        choose_display(tmp_path / 'empty')
    for path, given in ((tmp_path / 'none.ply', None), (mesh, tmp_path / 'none.ply')):
        with pytest.raises(FileNotFoundError, match=r'none\.ply: expected a mesh or a cloud .*, found none'):
            choose_display(path, given)
    with pytest.raises(InputError, match=r'cloud\.npy: expected a mesh beside --input, found a point cloud'):
        choose_display(cloud, cloud)()


@pytest.fixture(scope='module')
def scene_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'scene'
    render_scene(folder, num_views=20, size=12, seed=0)
    return folder


def test_cameras_and_rays_of_a_scene(scene_dir, monkeypatch):
    monkeypatch.setattr(scenes, 'MAX_VIEWS', 10)
    views, display = read_views(scene_dir), display_views(scene_dir)
    shown = display.make(3)
    assert (display.beside, shown.titles, display.controls[0].high) == (False, ('cameras', 'view', 'rays'), 9)
    ((cameras, view, rays),) = (item.shapes for item in shown.items)
    assert len(cameras.eyes) == len(cameras.pictures) == 10
    np.testing.assert_allclose(np.linalg.det(cameras.rotations), 1)
    # All look at one point, above which the mean camera is.
    poses = to_poses(views.camera)[::2]
    far = np.linalg.norm(poses[:, :, 3] - meeting_point(views.camera), axis=1)
    scale = np.linalg.norm(cameras.eyes[0] - cameras.eyes[1]) / np.linalg.norm(poses[0, :, 3] - poses[1, :, 3])
    ahead = cameras.eyes + scale * far[:, None] * cameras.rotations[:, :, 2]
    np.testing.assert_allclose(ahead, ahead[:1].repeat(10, axis=0), atol=0.02)
    up = -cameras.rotations[:, :, 1].mean(axis=0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 1, 0], atol=1e-6)
    assert max(np.abs(cameras.eyes).max(), np.abs(ahead).max()) <= 0.52
    # The rays begin at the eye of their view, around its axis, and are as long as the scene is deep.
    np.testing.assert_array_equal(view.eyes, cameras.eyes[3:4])
    starts, ways = rays.ends[:, 0] - view.eyes, np.diff(rays.ends, axis=1)[:, 0]
    near, bound = views.bounds[0]
    np.testing.assert_allclose(ways @ view.rotations[0, :, 2], scale * (bound - near), rtol=1e-6)
    np.testing.assert_allclose(np.cross(starts, ways), 0, atol=1e-6)
    np.testing.assert_allclose(starts.mean(axis=0), scale * near * view.rotations[0, :, 2], atol=0.02)
    assert set(shown.legend) == {f'camera of the split {split!r}' for split in ('train', 'val', 'test')}


def test_the_mesh_of_a_radiance_field_is_taken_at_any_density(scene_dir, monkeypatch):
    asked = []

    def extract(model, params, box, level, resolution, upsampling_steps):
        asked.append((box.edge, level, resolution << upsampling_steps))
        return BALL.copy()

    monkeypatch.setattr(scenes, 'extract_scene', extract)
    monkeypatch.setattr(scenes, 'find_box', lambda *_: Box(np.zeros(3), 100.0, 7.0, np.zeros((0, 3))))
    views = read_views(scene_dir)
    display = display_radiance(None, {}, None, scenes.Scene(scene_dir, None, views))
    assert [control.name for control in display.controls] == ['view', 'density', 'cube', 'resolution']
    shown = display.make(0, 2.0, 0.5, '64')
    reach = np.linalg.norm(to_poses(views.camera)[:, :, 3] - meeting_point(views.camera), axis=1).mean()
    display.make(1, 2.0, 0.5, '64')
    display.make(1, 1.0, 1e3, '128')
    assert asked == [(pytest.approx(0.5 * reach), 14.0, 64), (100.0, 7.0, 128)]
    assert shown.titles == ('mesh', 'cameras', 'view', 'rays')


class Balls:
    """A stand-in for a network of clouds: a ball of 0.3 heights of the cloud, in logits that fall by 10 in a unit."""

    latent_size = 0

    def encode(self, params, cloud):
        return np.ptp(np.asarray(cloud)[:, :, 1], axis=1, keepdims=True) * 0.3

    def bind(self, params, cond, latent=None):
        return lambda points: 10 * (cond[0, 0] - jnp.linalg.norm(points, axis=-1))


def method_of(model):
    return predicting(lambda inputs: [BALL.copy()])._replace(model=model)


def radius(shape):
    vertices = shape.mesh.vertices if isinstance(shape, Painted) else shape.vertices
    return np.linalg.norm(vertices, axis=1).mean()


def test_levels_and_resolutions_of_a_field(pair, monkeypatch):
    evaluated = []
    dense_grid = networks.dense_grid
    monkeypatch.setattr(networks, 'dense_grid', lambda *a, **k: evaluated.append(1) or dense_grid(*a, **k))
    config = small_config()
    with config.unlocked():
        config.eval.threshold = 0.5
    _, cloud = pair
    display = display_network(method_of(Balls()), {}, config, cloud)
    names = [control.name for control in display.controls]
    assert (names, display.controls[0].value) == (['level', 'resolution', 'colours'], 0.5)
    shown = display.make(0.5, '32', 'quality')
    assert (shown.titles, shown.legend) == (('input', 'reconstruction'), LEGEND)
    assert len(shown.items[0].shapes[0].points) == len(np.load(cloud)), 'all of the file, not what the network sees'
    for level, resolution, faces in ((0.2, '32', 3000), (0.9, '32', 100), (0.2, '128', 50_000)):
        made = display.make(level, resolution, 'plain').items[0].shapes[1]
        np.testing.assert_allclose(radius(made), 0.3 - np.log(level / (1 - level)) / 10, atol=0.01)
        assert len(made.faces) > faces
    assert len(evaluated) == 1, 'another level of the same grid takes no new values'
    nothing = display.make(0.99, '32', 'quality')
    assert (nothing.items[0].caption, nothing.legend) == ('nothing is inside', {})


def test_what_has_no_levels_is_shown_as_it_is(pair):
    config = small_config()
    display = display_network(method_of(None), {}, config, pair[1])
    assert [control.name for control in display.controls] == ['colours']
    assert display.make('plain').items[0].shapes[1].vertices.shape == BALL.vertices.shape


def test_validation_shapes_are_the_inputs_where_none_is_given(dataset):
    config = small_config()
    display = display_network(method_of(Balls()), {}, config, None, dataset)
    assert display.controls[0].options == ('chair 000003', 'mug 000003', 'table 000003')
    shown = display.make('mug 000003', 0.5, '32', 'plain')
    assert shown.titles == ('input', 'reconstruction', 'ground truth')
    seen, _, truth = shown.items[0].shapes
    assert (seen.shape, truth.shape) == ((30, 3), (5000, 3))
    with pytest.raises(InputError, match='--input: expected a file, from which cloud can be read'):
        display_network(method_of(Balls()), {}, config)


def unconditional(model, **data):
    config = small_config()
    with config.unlocked():
        config.data.update(inputs=('none',), num_frames=NUM_FRAMES, corresponding=True, **data)
        config.eval.threshold = 0.5
    return method_of(model), {}, config


class LatentBalls(Balls):
    """Balls whose radius is the latent code."""

    latent_size = 1

    def encode(self, params, inputs):
        return np.zeros((1, 0))

    def bind(self, params, cond, latent=None):
        return Balls.bind(self, params, latent)

    def prior(self, key, rows):
        return 0.1 + 0.05 * jnp.asarray(rows, jnp.float32)[:, None]


def test_a_walk_goes_from_sample_to_sample():
    network = unconditional(LatentBalls())
    display = display_network(*network)
    walk = display.controls[0]
    assert (walk.name, walk.high, walk.plays) == ('sample', networks.NUM_SAMPLES - 1, True)
    for place in (0, 1.5, 3.9, walk.high):
        (made,) = display.make(place, 0.5, '64').items[0].shapes
        np.testing.assert_allclose(radius(made), 0.1 + 0.05 * place, atol=0.005)
    with pytest.raises(InputError, match='--input: expected none for a network without input'):
        display_network(*network, given='a.ply')


def test_shape_and_motion_walk_by_themselves():
    model = make_egg_model()
    display = display_network(*unconditional(model))
    assert [control.name for control in display.controls] == ['shape', 'motion', 'level', 'resolution']
    sizes, ways = model.prior(networks.jax.random.key(0), np.arange(3))
    (made,) = display.make(1, 2, 0.5, '32').items[0].shapes
    assert isinstance(made, MeshSequence)
    np.testing.assert_allclose(np.ptp(made.vertices[0, :, 0]), sizes[1, 0], atol=0.05)
    np.testing.assert_allclose((made.vertices[-1] - made.vertices[0]).mean(axis=0), ways[2], atol=1e-5)


def test_a_network_without_latent_code_has_one_shape():
    model = LatentBalls()
    model.latent_size = 0
    model.bind = lambda params, cond, latent=None: Balls.bind(model, params, np.full((1, 1), 0.3))
    display = display_network(*unconditional(model))
    assert [control.name for control in display.controls] == ['level', 'resolution']
    np.testing.assert_allclose(radius(display.make(0.5, '64').items[0].shapes[0]), 0.3, atol=0.005)


class Grey:
    """A stand-in for a network of Texture Fields: everything is as bright as its code, or as the photo is in the mean."""

    latent_size = 1

    def encode_geometry(self, params, oriented_cloud):
        return None

    def encode(self, params, image):
        return np.mean(image, axis=(1, 2))[:, :1]

    def prior(self, key, rows):
        return np.asarray(rows, np.float32)[:, None] / 10

    def bind(self, params, geometry, cond):
        return lambda points: np.broadcast_to(np.asarray(cond)[0], points.shape)


def test_textures_of_a_photo_and_between_samples(pair, tmp_path):
    config = small_config()
    with config.unlocked():
        config.data.update(inputs=('image', 'oriented_cloud'), num_surface_points=10, image_size=8)
    model, (mesh, _) = Grey(), pair
    display = display_textures(model, {}, config, mesh, None, 0, 'y')
    assert [(control.name, control.plays) for control in display.controls] == [('sample', True)]
    for place in (0, 1.5, 5):
        shown = display.make(place)
        ((coloured,),) = (item.shapes for item in shown.items)
        assert (shown.titles, np.unique(coloured.colours)) == (('coloured',), round(255 * place / 10))
        np.testing.assert_allclose(np.ptp(coloured.mesh.vertices, axis=0), 1, atol=1e-6)
    picture = np.full((8, 8, 3), 255, np.uint8)
    picture[:4] = 55
    Image.fromarray(picture).save(tmp_path / 'photo.png')
    shown = display_textures(model, {}, config, mesh, tmp_path / 'photo.png', 0, 'y').make()
    ((photo, coloured),) = (item.shapes for item in shown.items)
    assert (shown.titles, photo.dtype, np.unique(coloured.colours)) == (('photo', 'coloured'), np.uint8, 155)
    with pytest.raises(InputError, match='--mesh: expected the mesh to colour beside the photo'):
        display_textures(model, {}, config, None, tmp_path / 'photo.png', 0, 'y')
    model.latent_size = 0
    with pytest.raises(InputError, match='--input: expected a photo'):
        display_textures(model, {}, config, mesh, None, 0, 'y')
