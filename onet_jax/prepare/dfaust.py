"""Import and export of sequences in the layout of the original code of Occupancy Flow, which is that of its D-FAUST.

ROOT/<category>/{train,val,test,...}.lst        one sequence a line. ROOT may be the folder of the category itself
ROOT/<category>/<sequence>/points_seq/%08d.npz  points, occupancies (packed bits), loc, scale of each frame
                          /pcl_seq/%08d.npz     points in correspondence over the frames, loc, scale
                          /img/<view>/*.jpg     one picture of each frame; read where every sequence has them
                          /mesh_seq/*           not read

The files of a folder are numbered without a gap, from any number on. They are not trusted: every fault is reported with path
and key. F frames, T labelled points and N surface samples of a frame, V views. Imports no JAX.
"""

import io
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from onet_jax.data import records
from onet_jax.data.archives import read_arrays, reject
from onet_jax.data.records import Index, encode_picture
from onet_jax.data.schema import FRAME_SIZE, SEQUENCES, ShapeSequence
from onet_jax.data.sources import read_lines
from onet_jax.errors import InputError
from onet_jax.json_files import is_file_name
from onet_jax.prepare.runners import Outcome, Runner, processes
from onet_jax.prepare.shapenet_files import FRAME, check_jpeg
from onet_jax.prepare.store import claim_folder, finish, keep_usual, store
from onet_jax.progress import track

FIRST_FRAME, STRIDE = 15, 1  # of the paper's clips: the first frames of D-FAUST are alike, and each start is evaluated
CLOUD = {'points': ('f', (None, 3)), **FRAME}
POINTS = {**CLOUD, 'occupancies': ('u', (None,))}
MAX_COORDINATE = 0.56  # of points in the object coordinates of their frame


def find_categories(root: str | Path) -> list[Path]:
    """The folders of categories in the original layout, sorted: `root` or folders in it with lists of names. May be empty."""
    root = Path(root)
    folders = [root, *sorted(path for path in root.glob('*') if path.is_dir())] if root.is_dir() else []
    return [path for path in folders if any(path.glob('*.lst')) and any(path.glob('*/pcl_seq'))]


def import_dfaust(
    root: str | Path, data_dir: str | Path, *, num_points: int, seed: int = 0, run: Runner | None = None
) -> Index:
    """Make a dataset in `data_dir` of the original layout in `root`; returns its index.

    num_points: of the stored labelled points and surface samples of a frame, a random part where there are more. Splits are
    those of the lists (`records.SEQUENCE_SPLITS`). A sequence that cannot be read, or differs from most others in its number
    of points or views, is in no split but in `index.rejected`. Raises FileNotFoundError or InputError where there is nothing
    to import or `data_dir` was begun with other settings.
    """
    root, data_dir = Path(root).resolve(), Path(data_dir)
    folders = {path.name: path for path in find_categories(root)}
    if not folders:
        raise FileNotFoundError(f'{root}: expected folders with lists (*.lst) and sequences (*/pcl_seq), found none')
    splits: dict[str, list[tuple[str, str]]] = {split: [] for split in records.SEQUENCE_SPLITS}
    missing = {}
    for category, folder in folders.items():
        for split in records.SEQUENCE_SPLITS:
            path = folder / f'{split}.lst'
            for number, name in read_lines(path) if path.is_file() else ():
                if not name:
                    continue
                if is_file_name(name) and (folder / name / 'pcl_seq').is_dir():
                    splits[split].append((category, name))
                else:
                    missing[f'{category}/{name}'] = (
                        f'{path}, line {number}: expected a sequence, found no {name}/pcl_seq'
                    )
    source = {'kind': 'dfaust', 'root': str(root), 'num_points': num_points, 'seed': seed}
    source |= {'first_frame': FIRST_FRAME, 'stride': STRIDE}
    claim_folder(data_dir, source, SEQUENCES)
    splits = {split: names for split, names in splits.items() if names or split in records.SPLITS}
    names = dict.fromkeys(name for split in splits.values() for name in split)
    work = partial(import_sequence, data_dir=data_dir, num_points=num_points, seed=seed)
    tasks = [(*name, str(folders[name[0]] / name[1])) for name in names]
    outcome = (run or processes())(work, tasks, 'importing sequences')
    outcome = keep_usual(data_dir, Outcome(outcome.results, missing | outcome.rejected), SEQUENCES)
    return finish(data_dir, tuple(folders), splits, outcome, source, SEQUENCES)


def import_sequence(category: str, name: str, folder: str, *, data_dir: Path, num_points: int, seed: int) -> dict:
    """Store one sequence, unless it is stored already; returns as `store`. Raises InputError for whatever is wrong with it."""
    found = [path for part in ('points_seq', 'pcl_seq', 'img') for path in Path(folder).glob(f'{part}/**/*')]
    files = sorted(path for path in found if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    settings = {'category': category, 'name': name, 'num_points': num_points, 'seed': seed, 'files': names}

    def make() -> ShapeSequence:
        try:
            read = read_original(Path(folder))._replace(category=category, name=name)
        except OSError as error:
            raise InputError(str(error)) from error
        # The files need not be in random order.
        rng = np.random.default_rng([seed, zlib.crc32(f'{category}/{name}'.encode())])
        points, places = (rng.permutation(n)[:num_points] for n in (read.points_seq.shape[1], read.pcl_seq.shape[1]))
        labelled = {'points_seq': read.points_seq[:, points], 'occ_seq': read.occ_seq[:, points]}
        return read._replace(**labelled, pcl_seq=read.pcl_seq[:, places])

    return store(data_dir, category, name, settings, files, make, SEQUENCES)


def read_original(folder: Path) -> ShapeSequence:
    """A sequence as stored in the original layout, its points in their order. Raises InputError that names the file."""
    clouds, points = _read_frames(folder / 'pcl_seq', CLOUD), _read_frames(folder / 'points_seq', POINTS)
    if points.keys() != clouds.keys():
        raise InputError(
            f'{folder}: expected the same frames in points_seq and pcl_seq, found {len(points)} and {len(clouds)}, '
            f'{_name_range(points)} and {_name_range(clouds)}'
        )
    num_points, occ = len(next(iter(points.values()))['points']), []
    for name, arrays in points.items():
        path, num_bytes = folder / 'points_seq' / name, -(-num_points // 8)
        if any(not np.array_equal(arrays[key], clouds[name][key]) for key in FRAME):
            reject(path, 'loc, scale', 'those of pcl_seq', 'others')
        if len(arrays['occupancies']) != num_bytes:
            reject(path, 'occupancies', f'{num_bytes} bytes', str(len(arrays['occupancies'])))
        occ.append(np.unpackbits(arrays['occupancies'], count=num_points).astype(bool))
    return ShapeSequence(
        folder.parent.name,
        folder.name,
        points_seq=np.stack([arrays['points'] for arrays in points.values()]).astype(np.float16),
        occ_seq=np.stack(occ),
        pcl_seq=np.stack([arrays['points'] for arrays in clouds.values()]).astype(np.float16),
        loc_seq=np.stack([arrays['loc'] for arrays in clouds.values()]).astype(np.float64),
        scale_seq=np.array([arrays['scale'] for arrays in clouds.values()], np.float64),
        image_seq=_read_pictures(folder / 'img', len(clouds)),
    )


def _read_frames(folder: Path, keys: dict[str, tuple]) -> dict[str, dict[str, np.ndarray]]:
    """Name of the file -> arrays of each frame, validated."""
    frames = {path.name: read_arrays(path, keys) for path in _list_frames(folder)}
    num_points = len(next(iter(frames.values()))['points'])
    for name, arrays in frames.items():
        path, found = folder / name, arrays['points']
        if len(found) != num_points:
            reject(path, 'points', f'{num_points} as in the first frame', str(len(found)))
        if not len(found) or np.abs(found).max() > MAX_COORDINATE:
            reject(path, 'points', f'coordinates of at most {MAX_COORDINATE}, in the cube of the frame', 'others')
        if not arrays['scale'] > 0:
            reject(path, 'scale', 'a positive number', str(arrays['scale']))
    return frames


def _name_range(frames: dict[str, dict]) -> str:
    return f'{next(iter(frames))} to {list(frames)[-1]}'


def _list_frames(folder: Path) -> list[Path]:
    """The numbered files of a folder. Raises InputError for fewer than two, for another name, and where a number is missing."""
    paths = sorted(folder.glob('*.npz'))
    if len(paths) < 2:
        raise InputError(f'{folder}: expected at least two frames (.npz), found {len(paths)}')
    for path in paths:
        if not path.stem.isdecimal():
            raise InputError(f'{path}: expected a frame that is called by its number, as 00000000.npz')
    for number, path in enumerate(paths, start=int(paths[0].stem)):
        if int(path.stem) != number:
            raise InputError(
                f'{folder}: expected the frame {number:08d}.npz after the one before, found {path.name} next'
            )
    return paths


def _read_pictures(folder: Path, num_frames: int) -> tuple[bytes, ...] | None:
    """The pictures of all views, those of a frame beside each other, 224 x 224 px; None where there is no folder."""
    views = [sorted(view.glob('*.jpg')) for view in sorted(folder.glob('*')) if view.is_dir()]
    if not views:
        return None
    for view in views:
        if len(view) != num_frames:
            raise InputError(
                f'{folder}: expected {num_frames} pictures (.jpg) in each view, as frames, found {len(view)}'
            )
    return tuple(_resize(view[k]) for k in range(num_frames) for view in views)


def _resize(path: Path) -> bytes:
    content = path.read_bytes()
    check_jpeg(path, content)
    with Image.open(io.BytesIO(content), formats=['JPEG']) as image:
        if image.size == (FRAME_SIZE, FRAME_SIZE):
            return content
        return encode_picture(
            np.asarray(image.convert('RGB').resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BILINEAR))
        )


def export_dfaust(data_dir: str | Path, root: str | Path) -> None:
    """Write a dataset of sequences so that the original code reads it; `root` is a new or an empty folder.

    The lists are written last: a root without them is of an interrupted run. Raises FileNotFoundError or InputError for a
    dataset that cannot be read, InputError when `root` is not empty.
    """
    data_dir, root = Path(data_dir), Path(root)
    index = records.read_index(data_dir, SEQUENCES)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f'{root}: expected a new or an empty folder to write to, found something in it')
    names = tuple(dict.fromkeys(name for split in records.SEQUENCE_SPLITS for name in index.splits.get(split, ())))
    for category, name in track(names, 'exporting', 'sequences'):
        write_original(
            root / category / name, records.read_sequence(records.sequence_path(data_dir, category, name), index)
        )
    for category in index.categories:
        for split in records.SEQUENCE_SPLITS:
            listed = [name for own, name in index.splits.get(split, ()) if own == category]
            (root / category).mkdir(parents=True, exist_ok=True)
            (root / category / f'{split}.lst').write_bytes('\n'.join(listed).encode())


def write_original(folder: Path, sequence: ShapeSequence) -> None:
    """Write one sequence in the original layout, its frames numbered from 0."""
    num_frames = len(sequence.scale_seq)
    for part in ('points_seq', 'pcl_seq'):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for k in range(num_frames):
        frame = {'loc': sequence.loc_seq[k], 'scale': sequence.scale_seq[k]}
        occ = np.packbits(sequence.occ_seq[k])
        np.savez(folder / 'points_seq' / f'{k:08d}.npz', points=sequence.points_seq[k], occupancies=occ, **frame)
        np.savez(folder / 'pcl_seq' / f'{k:08d}.npz', points=sequence.pcl_seq[k], **frame)
    for number, content in enumerate(sequence.image_seq or ()):
        num_views = len(sequence.image_seq) // num_frames
        path = folder / 'img' / f'{number % num_views:03d}' / f'{number // num_views:08d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
