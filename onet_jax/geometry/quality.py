"""Quality control of surface reconstruction: distances of the input points to a mesh, and the surface that no point supports.

A point of the surface is unsupported where its nearest input point is farther than the spacing of the cloud there. That is the
distance of an input point to its `NEIGHBOURS`-th neighbour, which follows from the density and the noise of the cloud itself;
of the point and its neighbours the median counts, so that a stray point supports nothing around it. Of points that are spread
evenly over a plane the nearest one is farther with a probability of exp(-NEIGHBOURS). A surface that misses the points by more
than their spacing is unsupported too.

So is a surface more than half a spacing from the points that sees its nearest input points on one side only: there a network
closes what a scan left open (a criterion for the boundary of a cloud, as the half-disc criterion of Bendels et al., 2006). The
mean of the vectors to them, in units of their mean length, is about 0 inside of a cloud, 2 / pi at its straight border, and
1 far beyond it.

Millions of points take as long as `MAX_POINTS`: so many are drawn, with a fixed seed. P points of a cloud, S of a surface.
Imports no JAX.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import trimesh
from scipy.spatial import KDTree

from onet_jax.errors import InputError
from onet_jax.geometry.clouds import longest_edge
from onet_jax.geometry.meshes import normalise
from onet_jax.geometry.sequences import frames_of

MAX_POINTS = 50_000  # of a cloud
MAX_POINTS_OF_SHELLS = 1_000_000  # in `drop_unsupported`: cells of a scan follow from the density of all its points
NUM_SAMPLES = 20_000  # of a surface
NUM_MEASURED = 10_000  # points whose distances to a mesh are measured
NEIGHBOURS = 8  # of an input point, up to which the spacing reaches
ONE_SIDED, NEAREST = 0.6, 16  # length of the mean vector; to so many input points
CHUNK = 50_000  # points of a surface at a time
LEAST_SUPPORTED = 0.1  # share of a shell
HIGH = 0.95  # quantile of the distances
NUM_CANDIDATES, MAX_CENTRES = 8, 1_000_000  # see `distances_to_mesh`


class Quality(NamedTuple):
    """How well a mesh and the cloud that it was made from agree."""

    median: float  # distance of an input point to the mesh, in the unit of the cloud
    high: float  # that which `HIGH` of the input points do not exceed
    farthest: float  # the largest one
    longest_edge: float  # of the box of the cloud, in its unit
    unsupported: float  # share of the area of the mesh that no input point supports, in [0, 1]
    num_parts: int  # surfaces of the mesh that are connected


def measure_support(mesh: trimesh.Trimesh, cloud: np.ndarray) -> Quality:
    """The quality of a mesh of a cloud [P, 3] in the same frame and unit, P at least 2 distinct points.

    Raises InputError for a mesh without area.
    """
    if not mesh.area > 0:
        raise InputError(f'mesh: expected a surface, found {len(mesh.faces)} faces of area zero')
    distances = distances_to_mesh(cloud[thin(len(cloud), NUM_MEASURED)], mesh)
    median, high = np.quantile(distances, (0.5, HIGH))
    samples, _ = trimesh.sample.sample_surface(mesh, NUM_SAMPLES, seed=0)
    unsupported = find_unsupported(samples, cloud)
    parts = np.unique(trimesh.graph.connected_component_labels(mesh.edges_unique, len(mesh.vertices))[mesh.faces[:, 0]])
    return Quality(
        float(median), float(high), float(distances.max()), longest_edge(cloud), float(unsupported.mean()), len(parts)
    )


def measure_worst_frame(sequence: Any, clouds: Sequence[np.ndarray]) -> Quality | None:
    """The quality of the frame of a sequence whose mesh is farthest from its cloud, by the median; None without meshes."""
    pairs = zip(frames_of(sequence), clouds, strict=True)
    found = [measure_support(m, cloud) for m, cloud in pairs if isinstance(m, trimesh.Trimesh) and len(m.faces)]
    return max(found, key=lambda quality: quality.median, default=None)


def thin(num_points: int, most: int = MAX_POINTS) -> slice | np.ndarray:
    """Which of the points of a cloud to keep: all, or `most` that are drawn with a fixed seed."""
    if num_points <= most:
        return slice(None)
    return np.random.default_rng(0).choice(num_points, most, replace=False, shuffle=False)


def find_unsupported(surface: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Which points [S, 3] of a surface no point of a cloud [P, 3] supports: [S] bool."""
    gaps = relative_gaps(surface, cloud)
    cloud = np.unique(cloud[thin(len(cloud))], axis=0)
    tree, found, unsure = KDTree(cloud), gaps > 1, np.flatnonzero((gaps > 0.5) & (gaps <= 1))
    for places in np.array_split(unsure, -(-len(unsure) // CHUNK) or 1):
        distances, near = tree.query(surface[places], k=range(1, min(NEAREST, len(cloud)) + 1))
        mean = np.linalg.norm((cloud[near] - surface[places, None]).mean(axis=1), axis=1)
        found[places] = mean > ONE_SIDED * distances.mean(axis=1)
    return found


def relative_gaps(surface: np.ndarray, cloud: np.ndarray, most: int = MAX_POINTS) -> np.ndarray:
    """The distances [S] of points [S, 3] of a surface to a cloud [P, 3], in units of its spacing there."""
    cloud = np.unique(cloud[thin(len(cloud), most)], axis=0)
    tree, num = KDTree(cloud), min(NEIGHBOURS + 1, len(cloud))
    distances, near = tree.query(cloud, k=range(1, num + 1))  # each point is the nearest to itself
    spacing = np.median(distances[near, -1], axis=1)
    gaps, nearest = tree.query(surface)
    return gaps / spacing[nearest]


def drop_unsupported(mesh: trimesh.Trimesh, cloud: np.ndarray, *, cavities_only: bool = False) -> trimesh.Trimesh:
    """The mesh without the shells of which a cloud [P, 3] supports less than `LEAST_SUPPORTED`; one of such shells alone stays.

    They lie where no point is near. A network that sees a part of a scene at a time cannot know the inside of a thick body: it
    may end the body in a shell of its own. cavities_only: shells that face outwards stay, since of a room that was scanned from
    inside they lack points.
    """
    if not len(mesh.faces):
        return mesh
    shells = trimesh.graph.connected_component_labels(mesh.edges_unique, len(mesh.vertices))
    supported = np.bincount(shells, relative_gaps(mesh.vertices, cloud, MAX_POINTS_OF_SHELLS) <= 1) / np.bincount(
        shells
    )
    corners, of_face = mesh.vertices[mesh.faces] - mesh.vertices.mean(axis=0), shells[mesh.faces[:, 0]]
    volumes = np.bincount(of_face, np.linalg.det(corners) / 6, minlength=len(supported))
    kept = ((supported >= LEAST_SUPPORTED) | (cavities_only & (volumes >= 0)))[of_face]
    if kept.all() or not kept.any():
        return mesh
    used, faces = np.unique(mesh.faces[kept], return_inverse=True)
    return trimesh.Trimesh(mesh.vertices[used], faces.reshape(-1, 3), process=False)


def distances_to_mesh(points: np.ndarray, mesh: trimesh.Trimesh) -> np.ndarray:
    """The distances [P] of points [P, 3] to a mesh with area.

    They are those to the nearest of the faces at the `NUM_CANDIDATES` nearest of many places: samples of the surface, and the
    centres of at most `MAX_CENTRES` faces. For few points, and meshes of more faces, they are too long by at most the distance
    of a place.
    """
    frame = normalise(mesh.vertices)
    triangles = frame.to_object(mesh.vertices)[mesh.faces]
    samples, sampled = trimesh.sample.sample_surface(mesh, NUM_SAMPLES, seed=0)
    centred = np.flatnonzero(mesh.area_faces > 0)[:: -(-len(mesh.faces) // MAX_CENTRES)]
    places = np.concatenate([frame.to_object(samples), triangles[centred].mean(axis=1)])
    points, faces = frame.to_object(points), np.concatenate([sampled, centred])
    _, near = KDTree(places).query(points, k=range(1, NUM_CANDIDATES + 1))
    repeated = np.repeat(points, NUM_CANDIDATES, axis=0)
    closest = trimesh.triangles.closest_point(triangles[faces[near.reshape(-1)]], repeated)
    return frame.scale * np.linalg.norm(closest - repeated, axis=1).reshape(near.shape).min(axis=1)
