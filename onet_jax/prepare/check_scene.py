"""Validation of posed pictures before a training: what is wrong with cameras and pictures in words, and a drawing of them.

V views. Imports no JAX.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onet_jax.data.images import load_layer
from onet_jax.data.posed_views import PosedViews, read_views
from onet_jax.files import write_atomically
from onet_jax.geometry.camera_paths import meeting_point, to_poses
from onet_jax.geometry.cameras import Camera, rays
from onet_jax.prepare.check import Checked
from onet_jax.progress import track

THUMBNAIL = 64  # px, of the pictures that are looked at
EVEN = 12  # greatest standard deviation of the border of pictures with a background of one colour, of 255
MANY = 0.1  # share of the views above which a hint is given
PANEL, MARGIN = 420, 30  # px
COLOURS = {'train': '#2d77b5', 'val': '#e08a1e', 'test': '#c8372d'}


def check_scene(data_dir: str | Path) -> Checked:
    """The views of each split, and what looks wrong. Raises as `read_views` for what cannot be used."""
    views = read_views(data_dir)
    fields_of_view = np.degrees(2 * np.arctan(views.size[0] / 2 / views.camera.camera_mat[:, 0, 0]))
    rows = [
        [split, str(len(some)), f'{views.size[0]} x {views.size[1]}', f'{fields_of_view[list(some)].mean():.1f}']
        for split, some in views.splits.items()
        if some
    ]
    return Checked(['split', 'views', 'px', 'angle of view (degrees)'], rows, {}, [*find_hints(views)])


def find_hints(views: PosedViews) -> list[str]:
    """What is unusual about cameras and pictures, and what to do."""
    hints, poses, centre = [], to_poses(views.camera), meeting_point(views.camera)
    depths = np.einsum('vi,vi->v', centre - poses[:, :, 3], -poses[:, :, 2])
    behind = (depths <= 0).mean()
    if behind > 0.5:
        hints.append(
            f'{behind:.0%} of the cameras look away from the point where their axes meet: the axes of the poses are probably '
            'right, down, forward; right, up, back are expected, so flip the second and the third'
        )
    elif behind > MANY:
        hints.append(f'{behind:.0%} of the cameras look away from the point where most axes meet; look at the picture')
    else:
        outside = ((depths < views.bounds[:, 0]) | (depths > views.bounds[:, 1])).mean()
        if outside > MANY:
            hints.append(
                f'the point that the cameras look at, {np.median(depths):.3g} before them, is not between near and far '
                f'({views.bounds[:, 0].min():.3g} and {views.bounds[:, 1].max():.3g}) of {outside:.0%} of the views; set '
                '--config.data.near and --config.data.far'
            )
    ups = poses[:, :, 1].mean(axis=0)
    if np.linalg.norm(ups) < 0.3:
        hints.append('the cameras have no common direction up; the axes of some poses may be flipped')
    return hints + _look_at_pictures(views)


def _look_at_pictures(views: PosedViews) -> list[str]:
    chosen = views.splits['train'][:: max(len(views.splits['train']) // 8, 1)][:8]
    layers = np.stack(
        [load_layer(views.pictures[i], (THUMBNAIL, THUMBNAIL)) for i in track(chosen, 'looking at', 'views')]
    )
    border = np.concatenate([layers[:, 0], layers[:, -1], layers[:, :, 0], layers[:, :, -1]], axis=1)
    if (layers[..., 3] < 255).any():
        empty = (layers[..., 3] == 0).mean()
        return ['the pictures are transparent everywhere'] if empty == 1 else []
    if border[..., :3].std(axis=(0, 1)).max() < EVEN:
        colour = border[..., :3].mean()
        name = 'white' if colour > 200 else 'black' if colour < 55 else 'of one colour'
        return [
            f'the pictures have no alpha and a background that is {name}: it becomes a part of the scene unless it is the '
            'background of the config (--config.data.background and --config.model.background, white or black)'
        ]
    return [
        'the pictures have no alpha: what is behind the object is part of the scene, so far must reach it (forward-facing '
        'scenes: --config=nerf:llff)'
    ]


def draw_scene(data_dir: str | Path, path: str | Path) -> None:
    """Write a PNG of the cameras from above and from the side, with their axes between near and far, and some pictures."""
    views = read_views(data_dir)
    poses, centre = to_poses(views.camera), meeting_point(views.camera)
    up = poses[:, :, 1].sum(axis=0)
    axis = int(np.argmax(np.abs(up)))  # that points up
    flat = [i for i in range(3) if i != axis]
    sheet = Image.new('RGB', (3 * PANEL, PANEL + MARGIN), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    span = 1.1 * max(np.abs(poses[:, :, 3] - centre).max(), 1e-9)
    for panel, (title, (right, upwards)) in enumerate(
        {'from above': (flat[0], flat[1]), 'from the side': (flat[0], axis)}.items()
    ):
        draw.text((panel * PANEL + 8, 6), f'cameras {title}', 'black', font)

        def place(point, panel=panel, right=right, upwards=upwards):
            x, y = (point - centre)[right] / span, (point - centre)[upwards] / span
            sign = np.sign(up[axis]) if upwards == axis else 1
            return (panel + 0.5 + 0.48 * x) * PANEL, MARGIN + (0.5 - 0.48 * sign * y) * PANEL

        for split, some in views.splits.items():
            for i in some:
                eye = poses[i, :, 3]
                _, (ahead,) = rays(
                    Camera(views.camera.world_mat[i], views.camera.camera_mat[i]), np.array([views.size]) / 2
                )
                ends = [place(eye + distance * ahead) for distance in views.bounds[i]]
                draw.line([place(eye), ends[0]], '#dddddd')
                draw.line(ends, '#bbd4a8')
                x, y = place(eye)
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), COLOURS.get(split, 'black'))
        x, y = place(centre)
        draw.line((x - 6, y, x + 6, y), 'black', 2)
        draw.line((x, y - 6, x, y + 6), 'black', 2)
    draw.text((2 * PANEL + 8, 6), 'pictures', 'black', font)
    chosen = views.splits['train'][:: max(len(views.splits['train']) // 9, 1)][:9]
    for k, i in enumerate(chosen):
        with Image.open(views.pictures[i]) as picture:
            layer = picture.convert('RGBA')
        layer.thumbnail((PANEL // 3 - 6, PANEL // 3 - 6))
        corner = (2 * PANEL + k % 3 * (PANEL // 3) + 3, MARGIN + k // 3 * (PANEL // 3) + 3)
        sheet.paste(layer.convert('RGB'), corner, layer)
    stream = io.BytesIO()
    sheet.save(stream, 'png')
    write_atomically(path, stream.getvalue())
