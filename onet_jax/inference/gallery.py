"""The HTML page of a reconstruction: inputs beside their meshes with their quality, and the inputs that failed."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from ml_collections import ConfigDict
from trimesh.visual import ColorVisuals

from onet_jax.data.fields import has_cloud, read_inputs, sees_clips, show, shows_objects
from onet_jax.data.sources import Source
from onet_jax.data.user_inputs import read_bulk
from onet_jax.errors import InputError
from onet_jax.geometry.clouds import longest_edge
from onet_jax.geometry.meshes import load_geometry, normalise
from onet_jax.geometry.quality import distances_to_mesh, find_unsupported
from onet_jax.geometry.sequence_files import fit
from onet_jax.geometry.sequences import CloudSequence, move
from onet_jax.inference.clip_files import load_clip
from onet_jax.inference.out_of_distribution import SHARE, Domain
from onet_jax.viz.page import POINTS, write_page
from onet_jax.viz.pictures import DOTS, FRONT, RGB, SIZE, UNSUPPORTED, Item, Painted, PaintedCloud, thin

MAX_SHOWN = 48  # items of a page
MAX_FAILURES = 200  # that it lists
FAR = 0.01  # of the longest edge of the cloud: points that are so far from the mesh have the last colour
MISSED: RGB = (0.90, 0.16, 0.10)  # of these points
LEGEND: dict[str, RGB] = {
    'point on the mesh': DOTS,
    f'point {FAR:.0%} of the longest edge away, or farther': MISSED,
    'surface': FRONT,
    'surface that no input point supports': UNSUPPORTED,
}


def write_gallery(
    output: Path,
    done: Mapping[Source, Path],
    failed: Mapping[Source, dict],
    items: Mapping[str, dict],
    config: ConfigDict,
    domain: Domain | None,
    network: str,
    file_format: str,
) -> list[str]:
    """Write OUTPUT/index.html with the first `MAX_SHOWN` meshes of `done`; returns a message for each that cannot be read.

    items: the entries of the manifest by name. network: a sentence about how well the network does. file_format: of the frames
    of sequences.
    """
    shown, said, data = [], [], config.data.copy_and_resolve_references()
    if 'image_size' in data:  # a photo is shown at a higher resolution than the network sees
        with data.unlocked():
            data.image_size = SIZE
    for source in list(done)[:MAX_SHOWN]:
        try:
            with warnings.catch_warnings(action='ignore'):  # they have been said
                inputs, frame = read_inputs(data, source, config.seed)
                if sees_clips(data):
                    clip = load_clip(done[source], items[source.name]['frames'], file_format)
                    shapes = _fit_clip(show(inputs), move(clip, frame.to_object))
                    links = None, done[source].relative_to(output).as_posix()
                    shown.append(Item(source.name, describe(items[source.name]), shapes, links=links))
                    continue
                geometry = load_geometry(done[source])
                shape = paint(geometry, read_bulk(source, data)) if has_cloud(data) else geometry
        except (InputError, OSError) as error:  # it was there a moment ago
            said.append(f'{output / "index.html"}: not shown: {error}')
            continue
        seen = show(inputs)
        if seen is not None and not shows_objects(data):  # a scene is shown normalised, as an object
            scan, frame = frame, normalise(geometry.vertices)._replace(turn=frame.turn)
            seen = frame.to_object(scan.to_user(seen))
        if isinstance(shape, Painted):
            seen = thin(seen, POINTS[1])
            seen = PaintedCloud(seen, paint_distances(frame.to_user(seen), shape.mesh))
        geometry.vertices = frame.to_object(geometry.vertices)
        links = None, done[source].relative_to(output).as_posix()
        shown.append(Item(source.name, describe(items[source.name]), (seen, shape), links=links))
    hidden = len(failed) - MAX_FAILURES
    failures = {source.name: item['reason'] for source, item in list(failed.items())[:MAX_FAILURES]}
    write_page(
        output / 'index.html',
        title=f'{len(done)} reconstruction{"s" if len(done) > 1 else ""}',
        lead=f'{network} {_lead(config, domain, [items[source.name] for source in done])}'.strip(),
        summary={'done': str(len(done)), 'failed': str(len(failed))},
        items=shown,
        column_titles=('input', 'reconstruction'),
        legend=LEGEND if any(isinstance(shape, Painted) for item in shown for shape in item.shapes) else None,
        failures=failures | ({'...': f'{hidden} more, see manifest.json'} if hidden > 0 else {}),
    )
    return said


def _fit_clip(seen: Any, made: Any) -> tuple[Any, Any]:
    """A clip and the sequence that was made of it, at all times within the cube of the page; pictures are left as they are."""
    if not isinstance(seen, CloudSequence):
        return seen, move(made, fit(made).to_object)
    frame = fit(seen, made)
    return move(seen, frame.to_object), move(made, frame.to_object)


def paint(geometry: trimesh.Trimesh | trimesh.PointCloud, cloud: np.ndarray) -> Painted | trimesh.PointCloud:
    """A mesh whose surface that a cloud [P, 3] does not support has another colour; its own colours are kept elsewhere."""
    if not isinstance(geometry, trimesh.Trimesh):
        return geometry
    colours = np.tile(np.round(255 * np.array(FRONT)).astype(np.uint8), (len(geometry.vertices), 1))
    visual = geometry.visual
    if isinstance(visual, ColorVisuals) and visual.kind == 'vertex':
        colours = visual.vertex_colors[:, :3].copy()
    colours[find_unsupported(geometry.vertices, cloud)] = np.round(255 * np.array(UNSUPPORTED))
    return Painted(geometry, colours)


def paint_distances(cloud: np.ndarray, mesh: trimesh.Trimesh) -> np.ndarray:
    """Colours [P, 3] uint8 of a cloud [P, 3] by the distances to the mesh that was made of it, in the same frame."""
    far = (distances_to_mesh(cloud, mesh) / (FAR * longest_edge(cloud))).clip(0, 1)[:, None]
    return np.round(255 * ((1 - far) * DOTS + far * MISSED)).astype(np.uint8)


def describe(item: dict) -> str:
    """The frames of a sequence, the out-of-distribution score of an input and the quality of its mesh in words, where known."""
    said, quality, score = [], item.get('quality'), item.get('out_of_distribution_score')
    if 'frames' in item:
        said.append(f'{item["frames"]} frames')
    if score is not None and score > 1:
        said.append(f'OUT OF DISTRIBUTION (score {score:.2f}, above 1): look at this shape before you trust it')
    elif score is not None:
        said.append(f'within the training distribution (score {score:.2f}, at most 1)')
    if quality:
        where = 'in the worst frame ' if 'frames' in item else ''
        distances, shares = (
            [f'{quality[name] / unit:{form}}' for name in ('median', 'high', 'farthest')]
            for unit, form in ((1, '.3g'), (quality['longest_edge'], '.2%'))
        )
        said.append(
            f'{where}points lie {distances[0]} (median), {distances[1]} (95 %), {distances[2]} (the farthest) from the mesh, '
            f'{", ".join(shares)} of the longest edge; no point supports {quality["unsupported"]:.1%} of its surface'
        )
        if quality['num_parts'] > 1:
            said.append(f'it has {quality["num_parts"]} separate parts')
    if 'up' in item:
        said.append(f'{item["up"]} is taken for up')
    return '; '.join(said)


def _lead(config: ConfigDict, domain: Domain | None, items: list[dict]) -> str:
    known = f'Threshold {config.eval.threshold:g}.' if 'threshold' in config.eval else ''
    known += f' The first {MAX_SHOWN} of {len(items)} are shown.' if len(items) > MAX_SHOWN else ''
    if domain is None:
        return f'{known} Whether the inputs resemble those of the training was not measured.'
    num_outside = sum(item.get('out_of_distribution_score', 0) > 1 for item in items)
    found = f'{known} {num_outside} of {len(items)} inputs are out of distribution'
    if not num_outside:
        return f'{found}.'
    return (
        f'{found}: less like the training inputs than {SHARE:.0%} of the validation inputs are. '
        'The network may answer them with a shape that it knows, not with the one that is there.'
    )
