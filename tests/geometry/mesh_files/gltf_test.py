import io
from functools import partial

import numpy as np
import pytest
from geometry.mesh_dialects import Gltf, glb
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.meshes import load_cloud, load_mesh

TRIANGLE = np.eye(3)
FACES = [(0, 1, 2)]


def triangle(**node):
    """A document of one triangle, and its primitive."""
    document = Gltf()
    primitive = {'attributes': {'POSITION': document.accessor(TRIANGLE.astype('<f4'))}}
    return document.mesh(primitive, **node), primitive


def test_nodes_turn_scale_and_move_in_the_order_of_the_format(tmp_path):
    document, _ = triangle(translation=[0, 0, 1], rotation=[0, 0, np.sqrt(0.5), np.sqrt(0.5)], scale=[1, 2, 3])
    document.tree['nodes'].append({'children': [0], 'translation': [10, 0, 0], 'scale': [2, 2, 2]})
    document.tree['scenes'] = [{'nodes': [1]}]
    (tmp_path / 'a.glb').write_bytes(document.glb())
    # Scaled, turned by 90 degrees about z (x becomes y, y becomes -x), moved; then the parent.
    expected = 2 * np.array([[0, 1, 1], [-2, 0, 1], [0, 0, 4]]) + np.array([10, 0, 0])
    np.testing.assert_allclose(load_mesh(tmp_path / 'a.glb').vertices, expected, atol=1e-12)


def test_all_instances_and_morphed_shapes_are_there(tmp_path):
    document, primitive = triangle()
    moves = np.array([[0, 0, 0], [5, 0, 0], [0, 7, 0]], '<f4')
    attributes = {
        'TRANSLATION': document.accessor(moves),
        'SCALE': document.accessor(np.array([[1, 1, 1], [2, 2, 2], [1, 1, -1]], '<f4')),
    }
    primitive['targets'] = [{'POSITION': document.accessor(np.array([[0, 0, 0], [0, 0, 0], [0, 0, 4]], '<f4'))}]
    document.tree['nodes'][0] |= {
        'weights': [0.5],
        'extensions': {'EXT_mesh_gpu_instancing': {'attributes': attributes}},
    }
    (tmp_path / 'a.glb').write_bytes(document.glb())
    mesh = load_mesh(tmp_path / 'a.glb')
    morphed = TRIANGLE * [[1], [1], [3]]
    np.testing.assert_array_equal(
        mesh.vertices, np.concatenate([morphed, 2 * morphed + moves[1], morphed * [1, 1, -1] + moves[2]])
    )
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [3, 4, 5], [8, 7, 6]])  # mirrored ones still face outwards


def test_fans_lines_and_points(tmp_path):
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], '<f4')
    document = Gltf()
    primitive = {'attributes': {'POSITION': document.accessor(square)}, 'mode': 6}
    document.mesh(primitive)
    lines = {**primitive, 'mode': 3}
    document.tree['meshes'][0]['primitives'].append(lines)
    (tmp_path / 'a.glb').write_bytes(document.glb())
    np.testing.assert_array_equal(load_mesh(tmp_path / 'a.glb').faces, [[0, 1, 2], [0, 2, 3]])
    document.tree['meshes'][0]['primitives'] = [lines, {**primitive, 'mode': 0}]
    (tmp_path / 'a.glb').write_bytes(document.glb())
    np.testing.assert_array_equal(load_cloud(tmp_path / 'a.glb'), square)


def test_colours_of_materials_and_textures(tmp_path):
    document, primitive = triangle()
    document.tree['materials'] = [{'pbrMetallicRoughness': {'baseColorFactor': [1, 0.5, 0, 1]}}]
    primitive['material'] = 0
    (tmp_path / 'a.glb').write_bytes(document.glb())
    middle = np.array([0]), np.full((1, 3), 1 / 3)
    srgb = [[1, 0.7354, 0]]  # of linear 1, 0.5, 0
    np.testing.assert_allclose(colours_of(load_mesh(tmp_path / 'a.glb'))(*middle), srgb, atol=2 / 255)

    primitive['attributes']['COLOR_0'] = document.accessor(np.full((3, 3), [1.0001, 0.5, 0], '<f4'))
    (tmp_path / 'a.glb').write_bytes(document.glb())
    np.testing.assert_allclose(colours_of(load_mesh(tmp_path / 'a.glb'))(*middle), srgb, atol=2 / 255)

    stream = io.BytesIO()
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(stream, 'png')  # left red, right blue
    document.tree |= {
        'images': [{'bufferView': document.view(stream.getvalue()), 'mimeType': 'image/png'}], 'textures': [{'source': 0}],
        'materials': [{'pbrMetallicRoughness': {'baseColorTexture': {'index': 0}}}],
    }  # fmt: skip
    primitive['attributes']['TEXCOORD_0'] = document.accessor(
        np.array([[255, 0], [255, 255], [200, 0]], '<u1'), normalized=True
    )
    (tmp_path / 'a.glb').write_bytes(document.glb())
    np.testing.assert_array_equal(colours_of(load_mesh(tmp_path / 'a.glb'))(*middle), [[0, 0, 1]])
    move = {'extensions': {'KHR_texture_transform': {'scale': [0.5, 1], 'offset': [-0.1, 0]}}}
    document.tree['materials'][0]['pbrMetallicRoughness']['baseColorTexture'] |= move
    (tmp_path / 'a.glb').write_bytes(document.glb())
    np.testing.assert_array_equal(colours_of(load_mesh(tmp_path / 'a.glb'))(*middle), [[1, 0, 0]])


def spoiled(change):
    document, primitive = triangle()
    primitive['indices'] = document.accessor(np.array([0, 1, 2], '<u2'))
    change(document.tree, primitive)
    return document.glb()


SPARSE = {'count': 1, 'indices': {'bufferView': 0, 'componentType': 5125}, 'values': {'bufferView': 0}}
DRACO, MESHOPT = 'KHR_draco_mesh_compression', 'EXT_meshopt_compression'


def repeat(tree, primitive):
    tree |= {'nodes': [{'mesh': 0}] * 10, 'scenes': [{'nodes': [*range(10)]}]}


def without_values(tree, primitive, **more):
    del tree['accessors'][0]['bufferView']
    tree['accessors'][0] |= more
    primitive['extensions'] = {DRACO: {}}


REFUSED = {
    'Draco': (lambda t, p: t.update(extensionsRequired=[DRACO]), f'{DRACO}; export it without'),
    'meshopt': (lambda t, p: t.update(extensionsRequired=[MESHOPT]), f'{MESHOPT}; export it without'),
    'optional Draco': (without_values, rf'accessor 0: .* \(extensions of the primitive: {DRACO}\)'),
    'cycle': (lambda t, p: t['nodes'][0].update(children=[0]), 'a tree of nodes, found node 0 twice'),
    'other indices': (
        lambda t, p: t['accessors'][1].update(bufferView=0, byteOffset=2),
        'faces of the vertices 0 to 2',
    ),
    'many numbers': (lambda t, p: t['accessors'][0].update(count=10**12), '1000000000000 x 3 numbers in a buffer view'),
    'negative count': (lambda t, p: t['accessors'][0].update(count=-1), 'expected -1 x 3 numbers'),
    'many zeros': (partial(without_values, count=10**9, sparse=SPARSE), 'accessor 0: .* as the file has bytes'),
    'sparse index': (lambda t, p: t['accessors'][0].update(sparse=SPARSE), 'sparse indices below 3, found 1065353216'),
    'long view': (lambda t, p: t['bufferViews'][0].update(byteLength=10**10), 'buffer view 0: expected 10000000000'),
    'no such accessor': (lambda t, p: p.update(indices=7), 'expected one of 2 accessors, found number 7'),
    'two indices': (lambda t, p: t['accessors'][1].update(count=2), 'three indices of each triangle, found 2 in all'),
    'normalized indices': (lambda t, p: t['accessors'][1].update(normalized=True), 'expected whole numbers as indices'),
    'indices of vectors': (lambda t, p: p.update(indices=0), 'expected whole numbers as indices, found accessor 0'),
    'float indices': (lambda t, p: t['accessors'][1].update(componentType=5126), 'expected whole numbers as indices'),
    'many parts': (repeat, 'at most 24 corners in all instances'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_understood_or_damaged_is_named(tmp_path, name, monkeypatch):
    monkeypatch.setattr('onet_jax.geometry.mesh_files.gltf.MAX_CORNERS', 24)
    change, fault = REFUSED[name]
    (tmp_path / 'a.glb').write_bytes(spoiled(change))
    with pytest.raises(InputError, match=rf'a\.glb: .*{fault}'):
        load_mesh(tmp_path / 'a.glb')


def test_other_containers_are_refused(tmp_path):
    content = bytearray(glb(TRIANGLE, FACES).glb())
    files = {
        'old.glb': (content[:4] + b'\1' + content[5:], 'expected glTF 2.0, found version 1'),
        'cut.glb': (content[:-9], 'expected a chunk of .* bytes, found .*; the file is cut off'),
        'empty.glb': (content[:12], 'expected a JSON chunk, found none'),
        'alone.gltf': (
            glb(TRIANGLE, FACES).gltf('away.bin').encode(),
            "expected the file 'away.bin' in its folder, found none",
        ),
        'deep.gltf': (b'[' * 100_000, 'expected a readable .gltf file'),
    }
    for name, (damaged, fault) in files.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=rf'{name}: {fault}'):
            load_mesh(tmp_path / name)
