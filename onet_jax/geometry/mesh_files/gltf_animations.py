"""Animations of glTF 2.0: linear blend skinning, morph targets and moving nodes, sampled at equidistant times.

L frames, V vertices, F faces, J joints of a skin, K keyframes of a channel, D numbers of a keyframe.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.gltf import Document, local_transform, transforms

FRAMES_PER_SECOND = 30  # of the animation, where no number of frames is asked for
Poses = dict[int, dict[str, np.ndarray]]  # node -> 'translation', 'rotation', 'scale' or 'weights' -> [L, D]


def animation_names(path: Path) -> list[str]:
    """The names of the animations of a file; one without a name has its number."""
    return _names(Document(path))


def _names(document: Document) -> list[str]:
    return [animation.get('name', str(n)) for n, animation in enumerate(document.tree.get('animations', []))]


def read_animation(path: Path, name: str | None, num_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [L, V, 3] in the frame of the scene and faces [F, 3]. name: of the animation, or None for the first.

    Without `num_frames` there are 30 in a second. Raises InputError for a file without it, and for one of a single pose.
    """
    document = Document(path)
    names = _names(document)
    if not names or (name is not None and name not in names):
        known = f'one of the animations {names}' if names else 'an animation in the file'
        raise InputError(f'expected {known}, found {"none" if name is None else repr(name)}; choose another')
    animation = document.item('animations', 0 if name is None else names.index(name))
    tracks = [
        _Track.read(document, animation['samplers'][channel['sampler']], channel['target'])
        for channel in animation['channels']
        if channel['target'].get('node') is not None
    ]
    times = np.concatenate([np.zeros(0), *(track.times for track in tracks)])
    if not len(times) or times.min() == times.max():
        raise InputError(f'animation {name or names[0]!r}: expected keyframes at two times at least, found fewer')
    num_frames = num_frames or max(2, round(FRAMES_PER_SECOND * np.ptp(times)) + 1)
    poses: Poses = {}
    for track in tracks:
        sampled = track.sample(np.linspace(times.min(), times.max(), num_frames))
        poses.setdefault(track.node, {})[track.path] = sampled
    return _pose(document, poses, num_frames)


class _Track(NamedTuple):
    """A channel of an animation: what moves, and its keyframes."""

    node: int
    path: str
    interpolation: str
    times: np.ndarray  # [K]
    values: np.ndarray  # [K, 1, D], or [K, 3, D] of a cubic spline: in-tangent, value, out-tangent

    @classmethod
    def read(cls, document: Document, sampler: dict, target: dict) -> '_Track':
        interpolation = sampler.get('interpolation', 'LINEAR')
        times, values = document.accessor(sampler['input'])[:, 0], document.accessor(sampler['output'])
        rows = 3 if interpolation == 'CUBICSPLINE' else 1
        if not (np.isfinite(times).all() and np.isfinite(values).all()):
            raise InputError(f'node {target["node"]}: expected finite keyframes, found NaN or infinity')
        if not len(times) or values.size % (len(times) * rows) or not (np.diff(times) > 0).all():
            raise InputError(
                f'node {target["node"]}: expected keyframes at increasing times with a value for each, found {len(times)} '
                f'times and {values.size} numbers; export the file again'
            )
        return cls(target['node'], target['path'], interpolation, times, values.reshape(len(times), rows, -1))

    def sample(self, times: np.ndarray) -> np.ndarray:
        """Values at times [L]: [L, D]. Before the first keyframe and after the last they stay."""
        times = times.clip(self.times[0], self.times[-1])
        key = np.searchsorted(self.times, times, side='right') - 1
        if self.interpolation == 'STEP' or len(self.times) == 1:
            return self.values[key, len(self.values[0]) // 2]
        if self.path == 'rotation' and self.interpolation == 'LINEAR':
            return Slerp(self.times, Rotation.from_quat(self.values[:, 0]))(times).as_quat()
        key = np.minimum(key, len(self.times) - 2)
        length = (self.times[key + 1] - self.times[key])[:, None]
        t = (times - self.times[key])[:, None] / length
        if self.interpolation == 'LINEAR':
            return (1 - t) * self.values[key, 0] + t * self.values[key + 1, 0]
        (start, leave), (arrive, end) = self.values[key, 1:].swapaxes(0, 1), self.values[key + 1, :2].swapaxes(0, 1)
        return (
            (2 * t**3 - 3 * t**2 + 1) * start
            + length * (t**3 - 2 * t**2 + t) * leave
            + (3 * t**2 - 2 * t**3) * end
            + length * (t**3 - t**2) * arrive
        )


def _pose(document: Document, poses: Poses, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The meshes of the scene in all frames: [L, V, 3], [F, 3]."""

    def local(index: int, node: dict) -> np.ndarray:
        pose = poses.get(index, {})
        if not pose.keys() & {'translation', 'rotation', 'scale'}:
            return local_transform(node)
        still = {key: np.array([node[key]], np.float64) for key in ('translation', 'rotation', 'scale') if key in node}
        values = ({**still, **pose}.get(key) for key in ('translation', 'rotation', 'scale'))
        return transforms(num_frames, *values)

    nodes = list(document.nodes(local))
    worlds = {index: np.broadcast_to(world, (num_frames, 4, 4)) for index, _, world in nodes}
    vertices, faces, num_vertices = [], [], 0
    for index, node, _ in nodes:
        if 'mesh' not in node:
            continue
        mesh = document.item('meshes', node['mesh'])
        weights = poses.get(index, {}).get('weights', np.atleast_2d(node.get('weights', mesh.get('weights', []))))
        for primitive in mesh['primitives']:
            part = document.primitive({key: primitive[key] for key in primitive if key != 'material'}, [])
            if part is None or not len(part.corners):
                continue
            placed = np.broadcast_to(part.vertices, (num_frames, *part.vertices.shape))
            for target, weight in zip(primitive.get('targets', []), weights.T, strict=False):
                if 'POSITION' in target:
                    placed = placed + weight[:, None, None] * document.accessor(target['POSITION'])
            if 'skin' in node:
                matrices = _joints(document, node['skin'], worlds)
                placed, is_mirrored = _skin(document, primitive, matrices, placed)
                copies = placed[:, None]
                mirrored = [is_mirrored]
            else:
                places = worlds[index][:, None] @ document.instances(node)  # [L, instances, 4, 4]
                copies = placed[:, None] @ places[..., :3, :3].swapaxes(2, 3) + places[..., None, :3, 3]
                mirrored = list(np.linalg.det(places[0, :, :3, :3]) < 0)
            for copy, flip in zip(copies.swapaxes(0, 1), mirrored, strict=True):
                corners = part.corners.reshape(-1, 3)
                vertices.append(copy)
                faces.append(num_vertices + (corners[:, ::-1] if flip else corners))
                num_vertices += copy.shape[1]
    if not faces:
        raise InputError('expected triangles in the scene, found none')
    return np.concatenate(vertices, axis=1), np.concatenate(faces)


def _joints(document: Document, index: int, worlds: dict[int, np.ndarray]) -> np.ndarray:
    """What the joints of a skin do to a vertex in the bind pose, [L, J, 4, 4]."""
    skin = document.item('skins', index)
    absent = set(skin['joints']) - worlds.keys()
    if absent:
        raise InputError(f'skin {index}: expected joints in the scene, found the nodes {sorted(absent)} outside of it')
    matrices = np.stack([worlds[joint] for joint in skin['joints']], axis=1)
    if 'inverseBindMatrices' not in skin:
        return matrices
    return matrices @ document.accessor(skin['inverseBindMatrices']).reshape(-1, 4, 4).swapaxes(1, 2)


def _skin(document: Document, primitive: dict, matrices: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, bool]:
    """Linear blend skinning of vertices [L, V, 3] by joints [L, J, 4, 4]; and whether they mirror. Weights sum to 1."""
    attributes, number, joints, weights = primitive['attributes'], 0, [], []
    while f'JOINTS_{number}' in attributes:
        joints.append(document.accessor(attributes[f'JOINTS_{number}']).astype(np.int64))
        weights.append(document.accessor(attributes[f'WEIGHTS_{number}']))
        number += 1
    if not joints:
        raise InputError('expected JOINTS_0 and WEIGHTS_0 of a mesh with a skin, found none; export the file again')
    joint, weight = np.concatenate(joints, axis=1), np.concatenate(weights, axis=1)
    if joint.max() >= matrices.shape[1]:
        raise InputError(f'expected joints below {matrices.shape[1]}, of the skin, found {joint.max()}')
    weight[weight.sum(axis=1) == 0, 0] = 1  # a vertex that nobody weighted follows its first joint
    weight = weight / weight.sum(axis=1, keepdims=True)
    placed = np.empty(vertices.shape)
    for frame, matrix in enumerate(matrices[:, :, :3]):
        blend = np.einsum('vk,vkij->vij', weight, matrix[joint])
        placed[frame] = np.einsum('vij,vj->vi', blend[:, :, :3], vertices[frame]) + blend[:, :, 3]
    return placed, bool(np.linalg.det(matrices[0, joint[0, 0], :3, :3]) < 0)
