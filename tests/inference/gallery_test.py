"""The page of a reconstruction, the quality that it shows, and the finishing of meshes."""

import base64
import json
import re

import numpy as np
import pytest
import trimesh
from model_configs import small_config
from predictions import hull_method, predicting

from onet_jax.configs import onet_image
from onet_jax.data.user_inputs import normalised_cloud
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh, save_mesh
from onet_jax.inference import gallery
from onet_jax.inference.finish import Finish
from onet_jax.inference.out_of_distribution import Domain
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.run import load_run
from onet_jax.viz.pictures import DOTS, UNSUPPORTED

pytestmark = pytest.mark.usefixtures('small_pictures')


def test_the_page_says_which_inputs_are_out_of_distribution(workdir, cloud, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, 'MAX_SHOWN', 2)
    run, clouds = load_run(workdir), {'box': cloud, 'rod': cloud * (1, 0.1, 0.1)}
    inputs, codes = tmp_path / 'in', []
    inputs.mkdir()
    for name, points in clouds.items():
        np.save(inputs / f'{name}.npy', points)
        seen, _ = normalised_cloud(points, run.config.data.num_input_points, run.config.seed)
        codes.append(run.method.model.encode(run.params, seen[None])[0])
    codes = np.stack(codes) / np.linalg.norm(codes, axis=1, keepdims=True)
    domain = Domain(codes[:1], float(np.linalg.norm(codes[0] - codes[1])) / 2, np.zeros((1, 0)), np.zeros(0))
    arguments = run.method._replace(predict=hull_method().predict), run.params, run.config, inputs
    reconstruct_files(*arguments, tmp_path / 'out', 'ply', lambda: domain)
    page = (tmp_path / 'out/index.html').read_text()
    assert '<h3>box<span>within the training distribution (score 0.00, at most 1); points lie' in page
    assert '<h3>rod<span>OUT OF DISTRIBUTION (score 2.00, above 1)' in page
    assert '1 of 2 inputs are out of distribution' in page
    reconstruct_files(*arguments, tmp_path / 'unknown', 'ply')
    page = (tmp_path / 'unknown/index.html').read_text()
    assert 'was not measured' in page
    assert 'OUT OF' not in page


def test_the_surface_that_no_point_supports_is_measured_and_shown(tmp_path, capsys):
    """Of a scan that lacks the back of a ball, in metres far from the origin, with colours."""
    ball, offset = trimesh.creation.icosphere(4, 1.0), np.array([5e5, 4.6e6, 100])
    points, _ = trimesh.sample.sample_surface(ball, 4000, seed=0)
    points = np.concatenate([points[points[:, 2] > 0], [[0, 0, -1.0]]])  # one point behind, so that the box is known
    red = np.where(points[:, :1] > 0, (200, 30, 40, 255), (20, 30, 240, 255)).astype(np.uint8)
    save_mesh(trimesh.PointCloud(points + offset, red), tmp_path / 'ball.ply')
    method = predicting(lambda inputs: [trimesh.Trimesh(0.5 * ball.vertices, ball.faces)])
    config = small_config()
    with config.unlocked():
        config.data.up = 'z'
    arguments = method, {}, config, tmp_path / 'ball.ply', tmp_path / 'out', 'ply'
    finish = Finish(smooth=1, num_faces=4000, colours=True)
    (path,) = reconstruct_files(*arguments, finish=finish, network='Validation IoU 0.8.')
    quality = json.loads((tmp_path / 'out/manifest.json').read_text())['items']['ball']['quality']
    assert quality['median'] < quality['high'] < 0.01
    assert quality['longest_edge'] == pytest.approx(2, abs=0.02)
    assert 0.4 < quality['unsupported'] < 0.5
    assert f'no point supports {quality["unsupported"]:.1%} of its surface' in capsys.readouterr().out
    mesh, page = load_mesh(path), (tmp_path / 'out/index.html').read_text()
    assert len(mesh.faces) <= 4000
    right, near = mesh.vertices[:, 0] > offset[0] + 0.2, mesh.vertices[:, 2] > 100.2
    assert (mesh.visual.vertex_colors[right & near] == (200, 30, 40, 255)).all()
    scan, shape = json.loads(re.search(r'id="shapes">(.*?)</script>', page, re.DOTALL).group(1))
    (point_colours, points), (colours, positions) = (
        [
            np.frombuffer(base64.b64decode(each[name]), dtype).reshape(-1, 3)
            for name, dtype in (('colours', 'u1'), ('positions', '<u2'))
        ]
        for each in (scan, shape)
    )
    assert len(point_colours) == len(points) == scan['count']
    assert np.abs(point_colours - 255 * np.array(DOTS)).max() < 30, 'the mesh goes through the points'
    unsupported = (colours == np.round(255 * np.array(UNSUPPORTED))).all(axis=1)
    height = positions[:, 1] / 65535 - 0.5  # z is up
    assert unsupported[height > 0].mean() < 0.02
    assert unsupported[(height < -0.05) & (height > -0.3)].all()
    assert 'surface that no input point supports' in page
    assert '<p class="dim">Validation IoU 0.8. Threshold' in page
    assert '<a href="ball.ply">ply</a>' in page
    seen = []
    reconstruct_files(predicting(lambda inputs: seen.append(1) or [ball]), *arguments[1:])
    assert seen, 'made again without the colours'


def test_what_cannot_be_finished_is_refused_before_anything_is_done(cloud, tmp_path):
    np.save(tmp_path / 'cloud.npy', cloud)

    def refuses(message, finish, config=None, file_format='ply'):
        with pytest.raises(InputError, match=message):
            reconstruct_files(
                hull_method(), {}, config or small_config(), tmp_path, tmp_path / 'out', file_format, finish=finish
            )

    refuses(r'--smooth: expected a number of steps, 0 or more, found -1', Finish(smooth=-1))
    refuses(r'--simplify: expected a number of faces, 4 or more, found 3', Finish(num_faces=3))
    refuses(
        r'--colors: expected a format that holds colours \(ply\|obj\|glb\), found stl',
        Finish(colours=True),
        None,
        'stl',
    )
    refuses(
        r'--colors: expected a network of point clouds, found one of image', Finish(colours=True), onet_image('tiny')
    )
    assert not (tmp_path / 'out').exists()
    refuses(r'cloud.npy: --colors: expected a point cloud with colours, found none', Finish(colours=True))
