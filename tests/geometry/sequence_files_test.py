"""Files of sequences: the animated .glb, read back as any reader of glTF does, and a file for each frame."""

import json

import numpy as np
import pytest
import trimesh
from moving_shapes import NUM_FRAMES, moving_egg

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_geometry, load_mesh
from onet_jax.geometry.sequence_files import save_animation, save_frames
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of, move

EGG = moving_egg(subdivisions=2)
CHANGING = ChangingMeshes((*frames_of(EGG)[:2], trimesh.Trimesh(), *frames_of(moving_egg(subdivisions=1))[3:]))


def read_chunks(path):
    """The document of a .glb and its binary chunk."""
    content = path.read_bytes()
    assert (content[:4], int.from_bytes(content[8:12], 'little')) == (b'glTF', len(content))
    length = int.from_bytes(content[12:16], 'little')
    assert length % 4 == 0
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def values_of(tree, binary, number):
    accessor = tree['accessors'][number]
    view = tree['bufferViews'][accessor['bufferView']]
    dtype, width = (
        {5126: '<f4', 5125: '<u4', 5123: '<u2'}[accessor['componentType']],
        {'SCALAR': 1, 'VEC3': 3}[accessor['type']],
    )
    assert view['byteOffset'] % 4 == 0
    return np.frombuffer(binary, dtype, accessor['count'] * width, view['byteOffset']).reshape(-1, width)


def write_frame(path, tree, binary):
    """The .glb with another document."""
    text = json.dumps(tree).encode()
    text += b' ' * (-len(text) % 4)
    body = len(text).to_bytes(4, 'little') + b'JSON' + text + len(binary).to_bytes(4, 'little') + b'BIN\0' + binary
    path.write_bytes(b'glTF' + (2).to_bytes(4, 'little') + (12 + len(body)).to_bytes(4, 'little') + body)


@pytest.mark.parametrize('where', [0, 4.6e6])
def test_each_frame_is_a_morph_target_of_the_first(tmp_path, where):
    """Far from the origin, where float32 is half a metre apart, the vertices keep their places."""
    path, sequence = tmp_path / 'egg.glb', move(EGG, lambda points: points + np.array([where, 1, 2]))
    save_animation(sequence, path, seconds=4.0)
    tree, binary = read_chunks(path)
    (animation,) = tree['animations']
    times, weights = (values_of(tree, binary, animation['samplers'][0][key]) for key in ('input', 'output'))
    np.testing.assert_allclose(times[:, 0], np.linspace(0, 4, NUM_FRAMES))
    assert animation['channels'] == [{'sampler': 0, 'target': {'node': 0, 'path': 'weights'}}]
    for frame, row in enumerate(weights.reshape(NUM_FRAMES, -1)):
        tree['nodes'][0]['weights'] = row.tolist()
        write_frame(tmp_path / 'frame.glb', tree, binary)
        mesh = load_mesh(tmp_path / 'frame.glb')
        np.testing.assert_array_equal(mesh.faces, EGG.faces)
        np.testing.assert_allclose(mesh.vertices, sequence.vertices[frame], rtol=0, atol=3e-7)


def test_the_document_is_what_the_standard_asks(tmp_path):
    """The official validator finds nothing in these files; here is what it would find most likely."""
    for sequence in (EGG, CloudSequence(EGG.vertices), CHANGING):
        save_animation(sequence, tmp_path / 'it.glb')
        tree, binary = read_chunks(tmp_path / 'it.glb')
        assert tree['buffers'] == [{'byteLength': len(binary)}]
        for number, accessor in enumerate(tree['accessors']):
            if 'min' in accessor:
                values = values_of(tree, binary, number)
                assert (accessor['min'], accessor['max']) == (values.min(axis=0).tolist(), values.max(axis=0).tolist())
        for mesh in tree['meshes']:
            (primitive,) = mesh['primitives']
            assert len(mesh.get('weights', [])) == len(primitive.get('targets', []))
            for attributes in (primitive['attributes'], *primitive.get('targets', [])):
                assert 'min' in tree['accessors'][attributes['POSITION']]
        for sampler in tree['animations'][0]['samplers']:
            assert 'min' in tree['accessors'][sampler['input']]


def test_meshes_without_common_faces_are_shown_one_at_a_time(tmp_path):
    """The last one as long as the others; an empty frame shows nothing."""
    save_animation(CHANGING, tmp_path / 'it.glb', seconds=2.0)
    tree, binary = read_chunks(tmp_path / 'it.glb')
    animation = tree['animations'][0]
    scales = np.stack([values_of(tree, binary, sampler['output'])[:, 0] for sampler in animation['samplers']])
    np.testing.assert_array_equal(scales, np.eye(5)[[0, 1, 3, 4]][:, [0, 1, 2, 3, 4, 4]])
    assert {sampler['interpolation'] for sampler in animation['samplers']} == {'STEP'}
    np.testing.assert_allclose(values_of(tree, binary, animation['samplers'][0]['input'])[:, 0], np.arange(6) / 2)
    assert len(load_geometry(tmp_path / 'it.glb').faces) == sum(len(mesh.faces) for mesh in CHANGING.meshes)


def test_a_point_cloud_stays_one(tmp_path):
    save_animation(CloudSequence(EGG.vertices), tmp_path / 'it.glb')
    cloud = load_geometry(tmp_path / 'it.glb')
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_allclose(cloud.vertices, EGG.vertices[0], atol=1e-7)


@pytest.mark.parametrize('file_format', ['ply', 'obj', 'off'])
def test_the_meshes_of_all_frames_have_the_same_faces(tmp_path, file_format):
    files = save_frames(EGG, tmp_path / 'egg', file_format)
    assert [file.name for file in files] == [f'{k:03d}.{file_format}' for k in range(NUM_FRAMES)]
    for frame, file in enumerate(files):
        mesh = load_mesh(file)
        np.testing.assert_array_equal(mesh.faces, EGG.faces)
        np.testing.assert_allclose(mesh.vertices, EGG.vertices[frame], atol=1e-6)
    assert [file.name for file in save_frames(CHANGING, tmp_path / 'it', 'ply')] == [
        '000.ply',
        '001.ply',
        '003.ply',
        '004.ply',
    ]


def test_what_is_no_animation_is_named(tmp_path):
    path = tmp_path / 'no.glb'
    bad = {
        'at least 2 frames of a shape, found 1 of 162': EGG._replace(vertices=EGG.vertices[:1]),
        'at least 2 frames of a shape, found 2 of 0': MeshSequence(np.zeros((2, 0, 3)), np.zeros((0, 3), int)),
        'coordinates that are finite': EGG._replace(vertices=np.full_like(EGG.vertices, np.nan)),
    }
    for message, sequence in bad.items():
        with pytest.raises(InputError, match=f'no.glb: expected {message}'):
            save_animation(sequence, path)
    assert not path.exists()
