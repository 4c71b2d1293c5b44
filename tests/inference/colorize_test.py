"""With a network in closed form: colours are waves in object coordinates, times the colour of the photo or the latent code."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from coloured_meshes import waves
from entry_points import launch
from ml_collections import ConfigDict
from PIL import Image
from untrained import untrained

from onet_jax import configs
from onet_jax.data.images import load_image
from onet_jax.data.sources import Source
from onet_jax.data.user_inputs import read_oriented_cloud
from onet_jax.errors import InputError
from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.meshes import load_mesh, save_mesh
from onet_jax.inference import colorize
from onet_jax.inference.colorize import Colouring, colorize_photo, colorize_samples, reconstruct_photo
from onet_jax.viz.pictures import render

GREEN = np.array([0.2, 0.8, 0.4], np.float32)


def find_colour(image):
    """The colour in the middle, [B, 3]."""
    return image[:, image.shape[1] // 2, image.shape[2] // 2]


def encode_geometry(params, cloud):
    """Checks an oriented cloud [1, P, 6] of a closed shape in object coordinates."""
    points, normals = np.split(cloud[0], 2, axis=1)
    assert cloud.shape == (1, 500, 6)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert np.ptp(points, axis=0).max() == pytest.approx(1, abs=0.05)
    assert (points * normals).sum(axis=1).mean() > 0, 'outwards'
    return cloud.mean(axis=1)


def color_at(points, cond):
    return jnp.clip(jnp.asarray(waves(points)) * cond[0, :3], 0, 1)


def posterior_of(params, rgb, geometry):
    assert rgb.shape == (1, 24, 24, 3)
    return find_colour(rgb), None


SEES = SimpleNamespace(
    encode=lambda params, image: find_colour(image),
    encode_geometry=encode_geometry,
    color=None,
    bind=lambda params, geometry, cond: partial(color_at, cond=cond),
    latent_size=0,
)
SAMPLES = SimpleNamespace(
    **{**vars(SEES), 'latent_size': 3, 'encode': None, 'posterior': posterior_of},
    prior=lambda key, rows: jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (3,)))(rows),
)


def make_config(*inputs):
    data = {'inputs': inputs, 'image_size': 32, 'view_size': 24, 'num_surface_points': 500}
    return ConfigDict({'data': data, 'seed': 0, 'model': {'name': 'texture_field'}})


CONFIGS = {0: make_config('image', 'oriented_cloud', 'depth_views'), 3: make_config('oriented_cloud', 'depth_views')}


def network(model):
    return model, {}, CONFIGS[model.latent_size]


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A box with z up in millimetres far from the origin, with colours of its own, and a photo of something green."""
    monkeypatch.setattr(colorize, 'SHOWN_EDGE', 0.5)
    for place in ('inference.colorize', 'viz.page', 'viz.pictures'):  # pictures take longer than all the rest
        monkeypatch.setattr(f'onet_jax.{place}.render', lambda shape, size=0: render(shape, size=32))
    box = trimesh.creation.box((100, 50, 200))
    box.apply_translation([5000, -300, 77])
    box.visual.vertex_colors = (200, 100, 0, 255)
    save_mesh(box, tmp_path / 'box.ply')
    photo = np.zeros((40, 40, 4), np.uint8)
    photo[10:30, 10:30] = [*np.round(255 * GREEN), 255]
    Image.fromarray(photo).save(tmp_path / 'photo.png')
    return tmp_path


def expected_at(points, colour):
    x, y, z = ((points - [5000, -300, 77]) / 200).T  # z is up
    return np.clip(waves(np.stack([x, z, -y], axis=1)) * colour, 0, 1)


@pytest.mark.parametrize('kind', ['glb', 'obj', 'ply'])
def test_a_mesh_file_has_the_colours_of_a_photo_in_the_frame_of_the_user(case, kind):
    asked = Colouring(case / f'out.{kind}', max_edge=0.1, up='z')
    assert colorize_photo(*network(SEES), asked, case / 'photo.png', case / 'box.ply') == case / f'out.{kind}'
    found = load_mesh(case / f'out.{kind}')
    np.testing.assert_allclose(found.bounds, [[4950, -325, -23], [5050, -275, 177]], atol=1e-3)
    assert len(found.vertices) > 500
    srgb = expected_at(found.vertices, np.round(255 * GREEN) / 255)
    np.testing.assert_allclose(found.visual.vertex_colors[:, :3] / 255, srgb, atol=2 / 255)
    page = (case / 'out.html').read_text()
    for title in ('photo', 'coloured', 'own colours', f'href="out.{kind}"'):
        assert title in page


def test_a_texture_is_baked(case):
    pytest.importorskip('xatlas')
    asked = Colouring(case / 'out.obj', texture_size=128, up='z')
    colorize_photo(*network(SEES), asked, case / 'photo.png', case / 'box.ply')
    assert {'out.obj', 'out.mtl', 'out.png', 'out.html'} <= {path.name for path in case.iterdir()}
    found, rng = load_mesh(case / 'out.obj'), np.random.default_rng(0)
    faces, weights = rng.integers(0, 12, 1000), rng.dirichlet(np.ones(3), 1000)
    points = np.einsum('ni,nik->nk', weights, found.triangles[faces])
    assert np.abs(colours_of(found)(faces, weights) - expected_at(points, GREEN)).max() < 0.05, 'of a texel'
    (case / 'out.obj').unlink()
    (case / 'out.html').unlink()
    with pytest.raises(InputError, match=r'out\.mtl: expected a new file, found one'):
        colorize_photo(*network(SEES), asked, case / 'photo.png', case / 'box.ply')


def test_pictures_with_palettes_and_alpha_are_seen_as_they_look(case):
    picture = Image.open(case / 'photo.png')
    palette = Image.new('P', picture.size, 0)
    palette.putpalette([9, 9, 9, *np.round(255 * GREEN).astype(int).tolist()])
    palette.paste(1, (10, 10, 30, 30))
    palette.save(case / 'palette.png', transparency=0)
    white = Image.new('RGB', picture.size, 'white')
    white.paste(picture, mask=picture)
    white.save(case / 'white.png')
    colours = []
    for name in ('photo', 'palette', 'white'):
        asked = Colouring(case / f'of_{name}.ply', max_edge=1.0)
        colours.append(load_mesh(colorize_photo(*network(SEES), asked, case / f'{name}.png', case / 'box.ply')))
    for found in colours[1:]:
        np.testing.assert_array_equal(found.visual.vertex_colors, colours[0].visual.vertex_colors)


def test_a_vae_takes_the_posterior_of_a_photo(case):
    for model in (SEES, SAMPLES):
        asked = Colouring(case / f'{model.latent_size}.ply', max_edge=1.0)
        colorize_photo(*network(model), asked, case / 'photo.png', case / 'box.ply')
    first, second = (load_mesh(case / f'{size}.ply').visual.vertex_colors for size in (0, 3))
    np.testing.assert_allclose(first.astype(float), second, atol=1)

    def refuse(*_):
        raise InputError('posterior: expected one')

    gan = SimpleNamespace(**{**vars(SAMPLES), 'posterior': refuse})
    with pytest.raises(InputError, match=r'--photo: expected a network that sees pictures, .* leave out --photo'):
        colorize_photo(*network(gan), Colouring(case / 'new.ply'), case / 'photo.png', case / 'box.ply')


def test_samples_are_those_of_the_seed_and_an_interpolation_joins_two(case):
    numbers = [0, 1, 2]
    of_mesh = partial(colorize_samples, *network(SAMPLES), mesh_path=case / 'box.ply')
    made = of_mesh(Colouring(case / 'a.ply', max_edge=1.0), seed=3, numbers=numbers)
    assert [path.name for path in made] == ['a_000.ply', 'a_001.ply', 'a_002.ply']
    assert {'a_sheet.png', 'a.html'} <= {path.name for path in case.iterdir()}
    moved = of_mesh(Colouring(case / 'b.ply', max_edge=1.0), seed=3, numbers=[2, 0], num_steps=3)
    first, last = (load_mesh(path).visual.vertex_colors for path in (made[2], made[0]))
    start, middle, end = (load_mesh(path).visual.vertex_colors for path in moved)
    np.testing.assert_array_equal(start, first)
    np.testing.assert_array_equal(end, last)
    np.testing.assert_allclose(middle, (first.astype(float) + last) / 2, atol=1)
    assert not np.array_equal(first, last)
    with Image.open(case / 'b_sheet.gif') as picture:
        assert picture.n_frames == 4, 'forwards and backwards'
    page = (case / 'b.html').read_text()
    assert page.count('data-shape=') == 6, 'each beside the own colours'


def test_a_photo_becomes_a_shape_first(case):
    def predict(params, inputs, key, workspace=None):
        assert inputs['image'].shape == (1, 32, 32, 3)
        return [trimesh.creation.icosphere(2, 0.4 if inputs['image'].min() < 0.5 else 0)]

    method, config = SimpleNamespace(predict=predict), make_config('image')
    with config.unlocked():
        config.data.update(augment=False, targets=('volume_points',), num_points_per_step=8, num_near_points=0)
    make_shape = partial(reconstruct_photo, method, {}, config)
    asked = Colouring(case / 'ball.ply', max_edge=1.0)
    found = load_mesh(colorize_photo(*network(SEES), asked, case / 'photo.png', make_shape=make_shape))
    np.testing.assert_allclose(found.bounds, [[-0.4] * 3, [0.4] * 3], atol=1e-6)
    srgb = np.clip(waves(found.vertices / 0.8) * GREEN, 0, 1)
    np.testing.assert_allclose(found.visual.vertex_colors[:, :3] / 255, srgb, atol=2 / 255)
    assert 'own colours' not in (case / 'ball.html').read_text()
    with pytest.raises(
        InputError, match='--shape_workdir: expected a network of pictures, found one of oriented_cloud'
    ):
        reconstruct_photo(method, {}, CONFIGS[3], case / 'photo.png')
    method.predict = lambda *_, **__: [trimesh.Trimesh()]
    with pytest.raises(InputError, match=r'photo\.png: expected a shape that the network'):
        make_shape(case / 'photo.png')


@pytest.mark.parametrize('variant', ['tiny', 'tiny,vae'])
def test_networks_of_the_paper_colour_a_mesh(case, variant):
    """Random weights: the colours are those of `color`, at the places of the file in object coordinates."""
    config = configs.texture_field(variant)
    with config.unlocked():
        sizes = ('cond_size', 'geometry_size', 'encoder_hidden_size', 'decoder_hidden_size', 'geometry_hidden_size')
        config.model.update({name: 4 for name in (*sizes, 'picture_hidden_size') if name in config.model})
        config.data.update({'num_surface_points': 50, 'view_size': 16})
    method, params = untrained(config)
    network, asked = (method.model, params, config), Colouring(case / 'out.ply', max_edge=0.5, up='z')
    if variant == 'tiny':
        made = colorize_photo(*network, asked, case / 'photo.png', case / 'box.ply')
    else:
        made, _ = colorize_samples(*network, asked, case / 'box.ply', seed=1, numbers=[0, 5])
    found = load_mesh(made)
    x, y, z = ((found.vertices - [5000, -300, 77]) / 200).T
    source = Source('box', case / 'box.ply')
    with config.unlocked():
        config.data.up = 'z'
    cloud = read_oriented_cloud(source, config.data, config.seed)[0]['oriented_cloud'][None]
    image = load_image(case / 'photo.png', 64)[None]
    cond = (
        method.model.encode(params, image)
        if variant == 'tiny'
        else method.model.prior(jax.random.key(1), jnp.zeros(1, int))
    )
    geometry = method.model.encode_geometry(params, cloud)
    points = np.stack([x, z, -y], axis=1).astype(np.float32)[None]
    colours = np.asarray(method.model.color(params, points, geometry, cond))[0]
    assert np.ptp(colours, axis=0).max() > 0.05
    np.testing.assert_allclose(found.visual.vertex_colors[:, :3] / 255, colours, atol=1 / 255)


def test_a_mesh_whose_texture_is_missing_is_coloured(case, capsys):
    (case / 'gone.mtl').write_text('newmtl m\nKd 1 0 0\nmap_Kd nowhere.png\n')
    text = trimesh.exchange.obj.export_obj(trimesh.creation.box())
    faces = text[text.index('\nf ') :]
    (case / 'gone.obj').write_text(
        'mtllib gone.mtl\n' + text.replace(faces, '\nvt 0 0\nusemtl m' + faces.replace('//', '/1/'))
    )
    found = colorize_photo(
        *network(SEES), Colouring(case / 'out.ply', max_edge=1.0), case / 'photo.png', case / 'gone.obj'
    )
    assert 'nowhere.png' in capsys.readouterr().out
    assert load_mesh(found).is_watertight


@pytest.mark.parametrize(
    'change, message',
    [
        ({'output': 'out.stl'}, r"--output: expected a format that holds colours \(glb\|obj\|ply\), found 'stl'"),
        ({'output': 'out'}, "found 'none'"),
        ({'output': 'out.ply', 'texture_size': 64}, r"a format that holds a texture \(glb\|obj\), found 'ply'"),
        ({'output': 'box.ply'}, r'box\.ply: expected a new file, found the input'),
        ({'output': 'mine.ply'}, r'mine\.html: expected a new file, found one'),
        ({'mesh': 'flat.ply'}, r'flat\.ply: mesh: expected a solid, found a flat one'),
        ({'mesh': 'line.ply'}, r'line\.ply: mesh: expected a solid, found a flat one'),
        ({'mesh': 'nowhere.ply'}, r'nowhere\.ply: expected a mesh'),
        ({'photo': 'white.png'}, r'white\.png: expected a picture of an object .* found background alone'),
        ({'photo': 'clear.png'}, r'clear\.png: expected a picture of an object .* found background alone'),
        ({'photo': 'box.ply'}, r'box\.ply: expected a readable picture'),
        ({'max_edge': 0.0}, 'max_edge: expected a length above 0, found 0'),
        ({'max_edge': 1e-6}, 'max_edge: expected a length that makes at most 4,000,000 faces'),
    ],
)
def test_what_cannot_be_coloured_is_said_and_nothing_is_written(case, change, message):
    (case / 'mine.html').write_text('mine')
    save_mesh(trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False), case / 'flat.ply')
    save_mesh(trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False), case / 'line.ply')
    Image.new('RGB', (50, 40), 'white').save(case / 'white.png')
    Image.new('RGBA', (50, 50), (9, 9, 9, 0)).save(case / 'clear.png')
    before = sorted(case.iterdir())
    given = {'output': 'new.ply', 'mesh': 'box.ply', 'photo': 'photo.png'} | change
    mesh, photo, output = (case / given.pop(name) for name in ('mesh', 'photo', 'output'))
    with pytest.raises((InputError, OSError), match=message):
        colorize_photo(*network(SEES), Colouring(output, **given), photo, mesh)
    assert sorted(case.iterdir()) == before


def test_the_command_asks_for_what_is_missing(case, monkeypatch):
    def load_run(workdir):
        model = SAMPLES if workdir == 'samples' else SEES
        config = make_config('image', 'depth_views') if workdir == 'other' else CONFIGS[model.latent_size]
        return SimpleNamespace(method=SimpleNamespace(model=model), params={}, config=config, workdir=workdir)

    monkeypatch.setattr('onet_jax.run.load_run', load_run)
    mesh, photo = f'--mesh={case}/box.ply', f'--photo={case}/photo.png'
    for flags, message in (
        (['--workdir=sees', mesh], '--photo: expected a picture, whose colours this network takes, found none'),
        (['--workdir=other', mesh, photo], 'config: expected a network of Texture Fields, which colours points, found'),
        (['--workdir=sees', photo], 'expected --mesh, or --photo with --shape_workdir, found neither or both'),
        (['--workdir=samples', mesh, '--start=1'], '--start, --end: expected both or none'),
        (['--workdir=samples', mesh, '--start=1', '--end=2', '--num_steps=1'], '--num_steps: expected at least 2'),
    ):
        done = launch('colorize', *flags, f'--output={case}/new.ply')
        assert done.returncode == 1
        assert message in done.stderr
    done = launch('colorize', '--workdir=sees', mesh, photo, f'--output={case}/new.ply', '--max_edge=1')
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        f'new.html shows {case}/new.ply; next: onet colorize --workdir=sees {mesh} {photo} '
        '--texture_size=1024 --output=finer.glb\n'
    )
    done = launch('colorize', '--workdir=samples', mesh, f'--output={case}/of.ply', '--max_edge=1', '--num_samples=2')
    assert done.returncode == 0, done.stderr
    assert f'of.html shows {case}/of_000.ply and 1 more' in done.stdout
