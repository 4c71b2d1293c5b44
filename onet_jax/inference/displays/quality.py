"""Quality control in the viewer: a cloud in the colours of its distances to a mesh, a mesh in those of what supports it.

P points of a cloud.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import trimesh

from onet_jax.geometry.quality import measure_support, thin
from onet_jax.inference.gallery import LEGEND, describe, paint, paint_distances
from onet_jax.viz.display import Choice, Shown
from onet_jax.viz.pictures import Item, PaintedCloud

QUALITY = 'quality'
COLOURS = Choice('colours', (QUALITY, 'plain'), QUALITY)


def compare(name: str, caption: str, shapes: Mapping[str, Any], colours: str = '') -> Shown:
    """A row of shapes by their titles, in one frame: the input, what was made of it, and others.

    With the colours QUALITY an input that is a cloud [P, 3], and the mesh that was made of it, have those of quality control.
    """
    seen, made, *others = shapes.values()
    points = seen.points if isinstance(seen, PaintedCloud) else seen
    is_cloud = isinstance(points, np.ndarray) and points.dtype != np.uint8
    if colours != QUALITY or not is_cloud or not isinstance(made, trimesh.Trimesh) or not made.area > 0:
        return Shown(tuple(shapes), [Item(name, caption, tuple(shapes.values()))])
    seen, made, said = paint_quality(made, points)
    return Shown(tuple(shapes), [Item(name, '; '.join(filter(None, (caption, said))), (seen, made, *others))], LEGEND)


def paint_quality(mesh: trimesh.Trimesh, cloud: np.ndarray) -> tuple[PaintedCloud, Any, str]:
    """A mesh with area and its cloud [P, 3], in one frame -> both in the colours of quality control, and it in words.

    Of a larger cloud `quality.MAX_POINTS` points are left.
    """
    cloud = np.asarray(cloud)[thin(len(cloud))]
    said = describe({'quality': measure_support(mesh, cloud)._asdict()})
    return PaintedCloud(cloud, paint_distances(cloud, mesh)), paint(mesh, cloud), said
