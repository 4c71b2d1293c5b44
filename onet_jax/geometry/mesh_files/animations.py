"""Files of moving meshes: numbered meshes in a folder, animations of glTF, and registrations of D-FAUST.

A sequence of a file that has several is named after a '#', as in fox.glb#Gallop. L frames, V vertices, F faces. Imports no JAX.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.gltf_animations import animation_names, read_animation
from onet_jax.geometry.mesh_files.polygons import check_mesh, triangulate
from onet_jax.geometry.meshes import load_polygons, reading
from onet_jax.geometry.sequences import MeshSequence

FRAME_FORMATS = ('obj', 'ply', 'off')  # of a folder with one mesh for each frame
ANIMATED_FORMATS, HDF5_FORMATS = ('glb', 'gltf'), ('hdf5', 'h5')
WELD = 1e-6  # of the longest edge: vertices that are closer in all frames are one
MAX_RIM = 0.5  # of the longest edge, in the first frame: a hole with a shorter rim is closed


def read_sequence(path: str | Path, *, num_frames: int | None = None) -> MeshSequence:
    """The moving mesh of a folder of numbered meshes (obj, ply, off), of a glb or gltf, or of registrations in an hdf5.

    FILE#NAME is the animation, or the sequence, of a file that has several; FILE is its first. In a folder meshes without a
    number are left out. num_frames: how many, at equidistant times; without it all frames of files, and 30 in a second of an
    animation.

    So that bodies are closed, vertices at one place in all frames become one, and small holes, such as those behind eyes, are
    closed by faces of their rims. A mesh with larger holes stays open.

    Raises FileNotFoundError, or InputError that names the file, for one that is damaged, for a sequence of fewer than two
    frames or with a missing one, for faces that change, and for vertices that are NaN.
    """
    path, name = _split_name(Path(path))
    kind = path.suffix.lower()[1:]
    if num_frames is not None and num_frames < 2:
        raise InputError(f'num_frames: expected at least 2, found {num_frames}')
    if path.is_dir():
        vertices, faces = _read_folder(path, num_frames)
    elif kind in (*ANIMATED_FORMATS, *HDF5_FORMATS):
        with reading(path):
            read = read_animation if kind in ANIMATED_FORMATS else _read_hdf5
            vertices, faces = read(path, name, num_frames)
            for frame in vertices:
                check_mesh(frame, faces)
    elif path.exists():
        raise InputError(
            f'{path}: expected a folder of numbered meshes ({"|".join(FRAME_FORMATS)}) or a file of the formats '
            f'{"|".join((*ANIMATED_FORMATS, *HDF5_FORMATS))}, found another file; give the folder that it is in'
        )
    else:
        raise FileNotFoundError(f'{path}: expected a folder of numbered meshes or an animated file, found none')
    return _close_holes(_weld(vertices, faces))


def find_sequences(folder: str | Path) -> list[tuple[str, str, str]]:
    """(category, name, path for `read_sequence`) of all sequences below a folder, in the order of their paths.

    The first folder below is the category, the rest of the path the name; of what is in `folder` itself it is its own name.
    A damaged file counts as one. Raises FileNotFoundError where there are none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: expected a folder of moving meshes, found none')
    found = []
    for path in sorted([root, *root.rglob('*')]):
        if any(part.startswith('._') or part == '__MACOSX' for part in path.relative_to(root).parts):  # of macOS
            continue
        *above, last = path.relative_to(root).parts or (root.resolve().name,)
        category, *between = above or [root.resolve().name]
        names = _names(path)
        for name in names:
            parts = [*between, last if path.is_dir() else path.stem, *([name] if len(names) > 1 else [])]
            label = '-'.join(re.sub(r'[^\w.+-]', '_', part) for part in parts)
            found.append((category, label, f'{path}#{name}' if len(names) > 1 else str(path)))
    if not found:
        raise FileNotFoundError(
            f'{root}: expected folders of numbered meshes ({"|".join(FRAME_FORMATS)}) or animated files '
            f'({"|".join((*ANIMATED_FORMATS, *HDF5_FORMATS))}) in it, found none'
        )
    return found


def _names(path: Path) -> list[str]:
    """The names of the sequences of a file, or '' for that of a folder of numbered meshes; none of anything else."""
    kind = path.suffix.lower()[1:]
    try:
        if path.is_dir():
            return [''] if any(len(files) > 1 for files in _numbered(path).values()) else []
        if kind in (*ANIMATED_FORMATS, *HDF5_FORMATS):
            with reading(path):
                return animation_names(path) if kind in ANIMATED_FORMATS else _hdf5_names(path)
    except InputError:
        return ['']  # whoever reads it learns what is wrong
    return []


def _split_name(path: Path) -> tuple[Path, str | None]:
    """FILE#NAME -> FILE, NAME; a file may have a # in its own name."""
    file, mark, name = str(path).partition('#')
    return (path, None) if path.exists() or not mark else (Path(file), name)


def _numbered(folder: Path) -> dict[tuple[str, str], dict[int, Path]]:
    """The meshes of a folder with a number in their names: (what is around the number) -> number -> file."""
    series: dict[tuple[str, str], dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r'(.*?)(\d+)(\D*)', path.stem)
        if match and path.suffix.lower()[1:] in FRAME_FORMATS and not path.name.startswith('._') and path.is_file():
            files = series.setdefault((match[1], match[3] + path.suffix), {})
            number = int(match[2])
            if number in files:
                raise InputError(
                    f'{path}: expected one mesh of number {number}, found {files[number].name}; delete one'
                )
            files[number] = path
    return series


def _choose(num: int, num_frames: int | None) -> np.ndarray:
    """The numbers of `num_frames` of `num` frames, as evenly spaced as can be."""
    if num < max(num_frames or 0, 2):
        raise InputError(f'expected at least {num_frames or 2} frames, found {num}')
    return np.round(np.linspace(0, num - 1, num_frames or num)).astype(int)


def _read_folder(folder: Path, num_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The numbered meshes of a folder: vertices [L, V, 3] and faces [F, 3]. Polygons are cut as in the first frame."""
    series = _numbered(folder)
    if len(series) > 1:
        names = ', '.join(f'{before}*{after}' for before, after in sorted(series))
        raise InputError(
            f'{folder}: expected one series of numbered meshes, found {names}; give each a folder of its own'
        )
    files = next(iter(series.values()), {})
    try:
        chosen = _choose(len(files), num_frames)
    except InputError as error:
        raise InputError(
            f'{folder}: {error} numbered meshes ({"|".join(FRAME_FORMATS)}); give another folder'
        ) from error
    numbers = sorted(files)
    steps = np.diff(numbers)
    if (steps != steps.min()).any():
        absent = numbers[int(np.argmax(steps != steps.min()))] + int(steps.min())
        raise InputError(
            f'{folder}: expected meshes of the numbers {numbers[0]} to {numbers[-1]} in steps of {steps.min()}, found no '
            f'number {absent}; add it, or keep only frames without a gap'
        )
    paths = [files[number] for number in numbers]
    first = load_polygons(paths[chosen[0]])
    frames = []
    for frame in chosen:
        mesh = load_polygons(paths[frame])
        if len(mesh.vertices) != len(first.vertices) or not (
            np.array_equal(mesh.corners, first.corners) and np.array_equal(mesh.sizes, first.sizes)
        ):
            what = [f'{len(m.vertices)} vertices and {len(m.sizes)} faces' for m in (first, mesh)]
            raise InputError(
                f'{paths[frame]}: expected the faces of {paths[chosen[0]].name}, {what[0]}, found {what[1]}'
                f'{", of other vertices" if what[0] == what[1] else ""}; give meshes with common faces, so that vertices '
                'correspond'
            )
        frames.append(mesh.vertices)
    return np.stack(frames), triangulate(first.vertices, first.corners, first.sizes)[0]


def _hdf5_names(path: Path) -> list[str]:
    with _open_hdf5(path) as file:
        return sorted(set(file) - {'faces'})


def _read_hdf5(path: Path, name: str | None, num_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A sequence of registrations_f.hdf5 or registrations_m.hdf5 of D-FAUST, NAME [V, 3, L] and faces [F, 3]."""
    names = _hdf5_names(path)
    if not names or (name is not None and name not in names):
        raise InputError(f'expected one of the sequences {names}, found {name!r}; choose another')
    with _open_hdf5(path) as file:
        stored = file[name or names[0]]
        vertices = stored[()].transpose(2, 0, 1)[_choose(stored.shape[2], num_frames)]
        return vertices.astype(np.float64), file['faces'][()].astype(np.int64)


def _open_hdf5(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise InputError('expected the package h5py, which reads it, found none; pip install h5py') from error
    return h5py.File(path)


def _weld(vertices: np.ndarray, faces: np.ndarray) -> MeshSequence:
    """The sequence with only the vertices that faces have, of which those that are one in all frames are merged."""
    used, faces = np.unique(faces, return_inverse=True)
    vertices = vertices[:, used]
    size = np.ptp(vertices, axis=(0, 1)).max()
    places = np.round(vertices.swapaxes(0, 1).reshape(len(used), -1) / (WELD * size or 1)).astype(np.int64)
    first, numbers = trimesh.grouping.unique_rows(places, keep_order=True)
    faces = numbers[faces.reshape(-1, 3)]
    return MeshSequence(vertices[:, first], faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)])


def _close_holes(sequence: MeshSequence) -> MeshSequence:
    """The sequence with faces for the holes whose rim is short and meets itself nowhere."""
    vertices, faces = sequence.vertices[0], sequence.faces
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    keys, back = edges @ [len(vertices), 1], edges[:, ::-1] @ [len(vertices), 1]
    open_edges = edges[~np.isin(back, keys)]
    starts, counts = np.unique(open_edges, return_counts=True)
    crossings = set(starts[counts != 2].tolist())
    before = {end: start for start, end in open_edges.tolist()}  # the faces of a hole go along its rim backwards
    longest, rims = np.ptp(vertices, axis=0).max(), []
    while before:
        rim = [next(iter(before))]
        while rim[-1] in before:
            rim.append(before.pop(rim[-1]))
        length = np.linalg.norm(np.diff(vertices[rim], axis=0), axis=1).sum()
        if rim[0] == rim[-1] and len(rim) > 3 and not crossings.intersection(rim) and length < MAX_RIM * longest:
            rims.append(rim[:-1])
    if not rims:
        return sequence
    closing, _ = triangulate(vertices, np.concatenate(rims), np.array([len(rim) for rim in rims]))
    return sequence._replace(faces=np.concatenate([faces, closing]))
