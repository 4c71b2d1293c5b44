import sys
import tarfile

import numpy as np
import pytest
import trimesh
from geometry.mesh_dialects import Gltf
from parity.golden import SHARED
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.animations import find_sequences, read_sequence
from onet_jax.geometry.mesh_files.gltf import Document
from onet_jax.geometry.meshes import load_mesh

# Points that are seen whole from its last corner alone: a fan from the first has another area.
ARROW = np.array([[0, 0, 0], [2, 1, 0], [0, 2, 0], [1, 1, 0]], float)
BOX = trimesh.creation.box((1, 2, 3))


def write_frames(folder, frames, faces='f 1 2 3 4\n', names='m{}.obj', first=0):
    folder.mkdir(exist_ok=True)
    for number, vertices in enumerate(frames, first):
        rows = ''.join('v {} {} {}\n'.format(*vertex) for vertex in vertices)
        (folder / names.format(number)).write_text(rows + faces)
    return folder


def animated(primitive_of, channels, *, nodes=None, times=(0, 1, 3), **tree):
    """A document with one animation. channels: (node, path, values, interpolation)."""
    document = Gltf()
    document.mesh(primitive_of(document))
    if nodes:
        document.tree['nodes'] = nodes(document)
    samplers, targets = [], []
    for node, path, values, interpolation in channels:
        sampler = {
            'input': document.accessor(np.array(times, '<f4')), 'output': document.accessor(np.array(values, '<f4')),
            'interpolation': interpolation,
        }  # fmt: skip
        targets.append({'sampler': len(samplers), 'target': {'node': node, 'path': path}})
        samplers.append(sampler)
    document.tree |= {'animations': [{'name': 'move', 'samplers': samplers, 'channels': targets}], **tree}
    return document


def split_box(document, **more):
    """A box with four vertices for each side, as files with normals have."""
    vertices = BOX.vertices[BOX.faces].reshape(-1, 3)
    return {'attributes': {'POSITION': document.accessor(vertices.astype('<f4'))} | more}


def read(document, path, **options):
    path.write_bytes(document.glb())
    return read_sequence(path, **options)


def test_frames_come_in_the_order_of_their_numbers_and_are_cut_alike(tmp_path):
    frames = [ARROW + number * np.eye(3)[0] for number in range(12)]
    frames[3] = ARROW[[1, 2, 3, 0]]  # of its own it would be cut along the other diagonal
    folder = write_frames(tmp_path / 'walk', frames, first=5)
    write_frames(folder, [ARROW], names='reference.obj')
    found = read_sequence(folder)
    np.testing.assert_array_equal(found.vertices, frames)
    assert sorted(map(sorted, found.faces)) == [[0, 1, 3], [1, 2, 3]]
    assert found.faces.dtype == np.int64
    few = read_sequence(folder, num_frames=3)
    np.testing.assert_array_equal(few.vertices, [frames[0], frames[6], frames[11]])
    for suffix in ('ply', 'off'):
        (tmp_path / suffix).mkdir()
        for number in range(2):
            moved = BOX.copy().apply_translation([0, number, 0])
            (tmp_path / suffix / f'{number:03d}.{suffix}').write_bytes(_export(moved, suffix))
        boxes = read_sequence(tmp_path / suffix)
        np.testing.assert_allclose(np.diff(boxes.vertices, axis=0)[0], np.tile([0, 1, 0], (8, 1)), atol=1e-6)


def _export(mesh, suffix):
    content = mesh.export(file_type=suffix)
    return content if isinstance(content, bytes) else content.encode()


def test_small_holes_are_closed_and_others_stay_open(tmp_path):
    ball = trimesh.creation.icosphere(3)
    around = [ball.vertices, ball.vertices * [1, 1.5, 1]]

    def read_without(missing, name):
        rows = ''.join('f {} {} {}\n'.format(*(face + 1)) for face in ball.faces[~missing])
        return read_sequence(write_frames(tmp_path / name, around, rows))

    apart = [0, int(np.argmin(ball.vertices @ ball.vertices[0]))]
    closed = read_without(np.isin(ball.faces, apart).any(axis=1), 'apart')
    for frame in range(2):
        mesh = closed.mesh(frame)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0.97 * [1, 1.5][frame] * ball.volume
    half = read_without(ball.triangles_center[:, 1] > 0, 'half')
    assert len(half.faces) == np.count_nonzero(ball.triangles_center[:, 1] <= 0)
    first = ball.faces[0]
    touching = np.isin(np.arange(len(ball.faces)), [0, _opposite(ball.faces, first[0], first)])
    assert len(read_without(touching, 'touching').faces) == len(ball.faces) - 2, 'two holes that meet at a vertex'


def _opposite(faces, vertex, other):
    """The number of a face at a vertex that shares no other vertex with the face `other`."""
    return next(n for n, face in enumerate(faces) if vertex in face and len(set(face) & set(other)) == 1)


@pytest.mark.parametrize(
    'change, message',
    [
        ('gap', r'walk: expected meshes of the numbers 0 to 3 in steps of 1, found no number 2'),
        ('faces', r'm2\.obj: expected the faces of m0\.obj, 4 vertices and 1 faces, found 4 vertices and 2 faces'),
        ('order', r'm2\.obj: .*found 4 vertices and 1 faces, of other vertices; give meshes with common faces'),
        ('vertices', r'm2\.obj: .*found 5 vertices and 1 faces'),
        ('nan', r'm2\.obj: expected finite vertices, found NaN or infinity in 4 of 4'),
        ('one', r'walk: expected at least 2 frames, found 1 numbered meshes'),
        ('none', r'walk: expected at least 2 frames, found 0 numbered meshes'),
        ('two', r'walk: expected one series of numbered meshes, found a\*\.obj, m\*\.obj'),
        ('twice', r'expected one mesh of number 1, found m01\.obj'),
        ('cloud', r'm2\.obj: expected faces, found none'),
    ],
)
def test_what_is_no_sequence_is_named(tmp_path, change, message):
    num = {'one': 1, 'none': 0}.get(change, 4)
    folder = write_frames(tmp_path / 'walk', [ARROW + number for number in range(num)])
    file = folder / 'm2.obj'
    content = file.read_text() if num == 4 else ''
    if change == 'gap':
        file.unlink()
    elif change == 'two':
        write_frames(folder, [ARROW] * 2, names='a{}.obj')
    elif change == 'twice':
        (folder / 'm01.obj').write_text(content)
    elif num == 4:
        file.write_text(
            {
                'faces': content.replace('f 1 2 3 4', 'f 1 2 3\nf 1 3 4'),
                'order': content.replace('f 1 2 3 4', 'f 1 2 4 3'),
                'vertices': 'v 0 0 9\n' + content,
                'nan': content.replace('v ', 'v nan '),
                'cloud': content.replace('f 1 2 3 4', ''),
            }[change]
        )
    with pytest.raises(InputError, match=message):
        read_sequence(folder)


def test_moved_and_morphed_bodies_are_closed(tmp_path):
    """A node above the mesh moves and mirrors it while a morph target grows; the twin is scipy."""
    grow = BOX.vertices[BOX.faces].reshape(-1, 3).astype('<f4')

    def primitive(document):
        return split_box(document) | {'targets': [{'POSITION': document.accessor(grow)}] * 2}

    tangents = np.random.default_rng(0).normal(size=(3, 3, 3))
    channels = [
        (0, 'weights', [0, 1, 0.5, 1, 1, 3], 'LINEAR'),
        (1, 'translation', tangents.reshape(9, 3), 'CUBICSPLINE'),
        (1, 'scale', [[1, 1, -1], [2, 2, -2], [3, 3, -3]], 'STEP'),
    ]
    document = animated(primitive, channels)
    document.tree['nodes'] = [{'mesh': 0}, {'children': [0]}]
    document.tree['scenes'] = [{'nodes': [1]}]
    found = read(document, tmp_path / 'a.glb', num_frames=7)
    assert found.vertices.shape == (7, 8, 3)
    times = np.linspace(0, 3, 7)
    in_tangents, values, out_tangents = tangents.swapaxes(0, 1).astype(np.float32).astype(np.float64)
    path = np.where(
        (times <= 1)[:, None],
        CubicHermiteSpline([0, 1], values[:2], np.stack([out_tangents[0], in_tangents[1]]))(times),
        CubicHermiteSpline([1, 3], values[1:], np.stack([out_tangents[1], in_tangents[2]]))(times),
    )
    weights = np.interp(times, [0, 1, 3], [0, 0.5, 1]) + np.interp(times, [0, 1, 3], [1, 1, 3])
    sizes = np.array([1, 1, 2, 2, 2, 2, 3]) * (1 + weights)
    for frame in range(7):
        mesh = found.mesh(frame)
        assert mesh.is_watertight
        np.testing.assert_allclose(mesh.volume, 6 * sizes[frame] ** 3, rtol=1e-6)  # positive although it is mirrored
        np.testing.assert_allclose(mesh.bounds.mean(axis=0), path[frame], atol=1e-6)


def test_a_skin_follows_its_joints(tmp_path):
    """Against a loop over vertices; the node of the mesh itself does not matter, and weights need not sum to 1."""
    rng = np.random.default_rng(0)
    joints, weights = rng.integers(0, 2, (36, 4)), rng.random((36, 4)) * 3
    weights[0] = 0  # nobody has weighted it
    turns = Rotation.from_rotvec([[0, 0, 0], [0, 0, 2.0], [0, 1.0, 0]])
    binds = np.stack([np.eye(4), np.eye(4)])
    binds[1, 1, 3] = -1

    def primitive(document):
        of = {
            'JOINTS_0': document.accessor(joints.astype('u1')),
            'WEIGHTS_0': document.accessor(weights.astype('<f4')),
        }
        return split_box(document, **of)

    def nodes(document):
        document.tree['skins'] = [
            {
                'joints': [1, 2],
                'inverseBindMatrices': document.accessor(binds.swapaxes(1, 2).reshape(2, 16).astype('<f4')),
            }
        ]
        document.tree['scenes'] = [{'nodes': [0, 1]}]
        return [
            {'mesh': 0, 'skin': 0, 'translation': [100, 0, 0]},
            {'children': [2], 'translation': [0.5, 0, 0]},
            {'translation': [0, 1, 0]},
        ]

    document = animated(primitive, [(2, 'rotation', turns.as_quat(), 'LINEAR')], nodes=nodes)
    found = read(document, tmp_path / 'a.glb', num_frames=4)
    vertices = BOX.vertices[BOX.faces].reshape(-1, 3)
    weights[0, 0] = 1
    expected, y = np.zeros((4, 36, 3)), np.array([0, 1, 0])
    quarter = (turns[1].inv() * turns[2]).as_rotvec()
    for frame, turn in enumerate([turns[0], turns[1], turns[1] * Rotation.from_rotvec(quarter / 2), turns[2]]):
        for vertex in range(36):
            placed = vertices[vertex], turn.apply(vertices[vertex] - y) + y
            share = weights[vertex] / weights[vertex].sum()
            expected[frame, vertex] = sum(share[k] * placed[joints[vertex, k]] for k in range(4))
    corners = found.vertices[:, found.faces].reshape(expected.shape)  # those that move alike are one vertex
    np.testing.assert_allclose(corners - expected, np.broadcast_to([0.5, 0, 0], expected.shape), atol=1e-5)


def test_animations_are_found_by_name(tmp_path):
    document = animated(split_box, [(0, 'translation', np.eye(3), 'LINEAR')])
    first = document.tree['animations'][0]
    second = {**first, 'name': 'Armature|Jump/2', 'samplers': [{**first['samplers'][0], 'interpolation': 'STEP'}]}
    document.tree['animations'].append(second)
    folder = tmp_path / 'sets' / 'animals'
    (folder / 'old').mkdir(parents=True)
    (folder / 'fox.glb').write_bytes(document.glb())
    still = Gltf()
    (folder / 'rock.glb').write_bytes(still.mesh(split_box(still)).glb())
    (folder / 'bad.glb').write_bytes(b'glTF')
    write_frames(folder / 'old' / 'v1.5', [ARROW, 2 * ARROW])
    fox = f'{folder}/fox.glb'
    assert find_sequences(tmp_path / 'sets') == [
        ('animals', 'bad', f'{folder}/bad.glb'),
        ('animals', 'fox-move', f'{fox}#move'),
        ('animals', 'fox-Armature_Jump_2', f'{fox}#Armature|Jump/2'),
        ('animals', 'old-v1.5', f'{folder}/old/v1.5'),
    ]
    assert find_sequences(folder / 'old') == [('old', 'v1.5', f'{folder}/old/v1.5')]
    assert find_sequences(folder / 'old' / 'v1.5') == [('v1.5', 'v1.5', f'{folder}/old/v1.5')]
    moved, stepped = (read_sequence(f'{fox}{name}').vertices[:, 0] for name in ('', '#Armature|Jump/2'))
    assert len(moved) == 91, '30 in a second'
    np.testing.assert_allclose(moved[15] - moved[0], [-0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(stepped[29] - stepped[0], 0, atol=1e-6)
    with pytest.raises(InputError, match=r"fox\.glb: expected one of the animations \['move', .*found 'run'"):
        read_sequence(f'{fox}#run')
    with pytest.raises(InputError, match=r'rock\.glb: expected an animation in the file, found none'):
        read_sequence(folder / 'rock.glb')
    with pytest.raises(InputError, match=r'bad\.glb'):
        read_sequence(folder / 'bad.glb')
    with pytest.raises(FileNotFoundError, match=r'dog\.glb: expected'):
        read_sequence(folder / 'dog.glb')
    with pytest.raises(InputError, match=r'm0\.obj: expected a folder of numbered meshes'):
        read_sequence(folder / 'old' / 'v1.5' / 'm0.obj')
    with pytest.raises(FileNotFoundError, match='expected folders of numbered meshes'):
        find_sequences((tmp_path / 'empty').mkdir() or tmp_path / 'empty')


@pytest.mark.parametrize(
    'values, times, message',
    [
        (np.eye(3), (0, 1, 1), 'node 0: expected keyframes at increasing times'),
        (np.eye(3)[:2], (0, 1, 2, 3), 'node 0: .* a value for each, found 4 times and 6 numbers'),
        (np.eye(3)[:1], (2,), "animation 'move': expected keyframes at two times at least"),
        (np.full((3, 3), np.nan), (0, 1, 2), 'node 0: expected finite keyframes, found NaN'),
    ],
)
def test_damaged_animations_are_named(tmp_path, values, times, message):
    document = animated(split_box, [(0, 'translation', values, 'LINEAR')], times=times)
    with pytest.raises(InputError, match=rf'a\.glb: {message}'):
        read(document, tmp_path / 'a.glb')


def test_registrations_of_dfaust(tmp_path, monkeypatch):
    h5py = pytest.importorskip('h5py')
    frames = BOX.vertices + np.arange(5)[:, None, None]
    with h5py.File(tmp_path / 'm.hdf5', 'w') as file:
        file['faces'] = BOX.faces.astype(np.uint32)
        file['50002_hop'], file['50004_run'] = frames.transpose(1, 2, 0), 2 * frames.transpose(1, 2, 0)
    names = [name for _, name, _ in find_sequences(tmp_path)]
    assert names == ['m-50002_hop', 'm-50004_run']
    found = read_sequence(tmp_path / 'm.hdf5#50004_run', num_frames=3)
    np.testing.assert_array_equal(found.vertices, 2 * frames[::2])
    np.testing.assert_array_equal(found.faces, BOX.faces)
    with pytest.raises(InputError, match=r"m\.hdf5: expected one of the sequences \['50002_hop', .*found 'x'"):
        read_sequence(tmp_path / 'm.hdf5#x')
    with pytest.raises(InputError, match=r'm\.hdf5: expected at least 9 frames, found 5'):
        read_sequence(tmp_path / 'm.hdf5', num_frames=9)
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(InputError, match=r'm\.hdf5: expected the package h5py'):
        read_sequence(tmp_path / 'm.hdf5')


ARCHIVES = SHARED / 'data' / 'sequences'


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVES.is_dir(), reason=f'needs the sequences in {ARCHIVES}')
def test_real_sequences(tmp_path):
    for name in ('cat_lowpoly', 'horse_sumner', 'quaternius_animated'):
        with tarfile.open(ARCHIVES / f'{name}.tar.xz') as archive:
            archive.extraction_filter = getattr(tarfile, 'data_filter', None)  # an argument from Python 3.11.4 on
            archive.extractall(tmp_path)
    found = find_sequences(tmp_path)
    assert len(found) == 2 + 124
    cat, horse = (read_sequence(tmp_path / name) for name in ('cat_lowpoly', 'horse_sumner'))
    assert (cat.vertices.shape, len(cat.faces)) == ((36, 398, 3), 794)
    assert (horse.vertices.shape, len(horse.faces)) == ((10, 8431, 3), 16858)
    assert horse.mesh(0).is_watertight, 'its holes have 16 and 3 edges'
    np.testing.assert_array_equal(horse.vertices[9], load_mesh(tmp_path / 'horse_sumner' / 'horse-10.obj').vertices)
    closed = set()
    for path in sorted((tmp_path / 'quaternius_animated').glob('*.glb')):
        sequence = read_sequence(path, num_frames=4)
        edges = sequence.vertices[:, sequence.mesh(0).edges_unique]
        lengths = np.linalg.norm(np.diff(edges, axis=2), axis=-1)[..., 0]
        # Bones do not stretch: most of the skin keeps its edges, and no vertex flies away.
        assert np.median(np.abs(lengths / lengths[0] - 1)) < 0.1, path.name
        assert lengths.max() < 2 * lengths[0].max(), path.name
        if sequence.mesh(0).is_watertight:
            closed.add(path.stem)
    animals = {'Apatosaurus', 'Bull', 'Cow', 'Deer', 'Donkey', 'Fox', 'Horse', 'Triceratops', 'Velociraptor', 'Wolf'}
    assert closed == animals, 'an alpaca has flipped faces, a parasaurolophus edges of four faces'
    assert len(Document(tmp_path / 'quaternius_animated' / 'Fox.glb').tree['animations']) == 12
