"""Writers of mesh files in their dialects, by hand: vertices [N, 3] and polygons, tuples of indices, to the text or bytes."""

import base64
import json
import struct

import numpy as np

U_CUT = [(0, 1, 4), (1, 2, 4), (2, 3, 4), (0, 4, 5), (0, 5, 7), (5, 6, 7)]


def cut(vertices, polygons):
    """The triangles of polygons, for formats that have no others."""
    if len(vertices) == 16:  # from the first corner of the outline, wherever the polygon begins
        below, above = (lambda t: t[::-1]), (lambda t: tuple(8 + i for i in t))
        ends = [turn(triangle) for turn in (below, above) for triangle in U_CUT]
        return np.array(ends + [t for a, b, c, d in polygons[1:-1] for t in ((a, b, c), (a, c, d))])
    return np.array([(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)])


def text(rows, sep=' ', fmt='%.17g'):
    return ''.join(sep.join(fmt % number for number in row) + '\n' for row in rows)


def obj(vertices, polygons, corner='{0}', sep=' ', colours='', before='', after=''):
    lines = [before, *(f'v{sep}' + sep.join(map(repr, map(float, v))) + colours + '\n' for v in vertices), after]
    lines += [f'f{sep}' + sep.join(corner.format(i + 1) for i in p) + '\n' for p in polygons]
    return ''.join(lines)


def obj_relative(vertices, polygons):
    blocks = [text(vertices[list(p)]).replace('\n', '\nv ')[:-2] for p in polygons]
    faces = ['f ' + ' '.join(str(i - len(p)) for i in range(len(p))) + '\n' for p in polygons]
    return ''.join('v ' + block + face for block, face in zip(blocks, faces, strict=True))


def obj_normals(vertices, polygons):
    more = 'vt 0 0\nvt 1 0\nvn 0 0 1\n'
    return {
        f'{i}.obj': obj(vertices, polygons, corner=c, after=more) for i, c in enumerate(('{0}/1', '{0}//1', '{0}/2/1'))
    }


def ply(vertices, polygons, kind='ascii', real='double', extra=False, colours='', index='int', length='uchar'):
    order = {'ascii': '', 'binary_little_endian': '<', 'binary_big_endian': '>'}[kind]
    code = {'double': 'd', 'float': 'f', 'uchar': 'B', 'int': 'i', 'uint': 'I', 'short': 'h'}
    header = [f'ply\nformat {kind} 1.0\ncomment made by hand']
    rows = []
    if extra:
        header += ['obj_info one', 'element camera 1', 'property float focal', 'property list uchar int size']
        rows += [[('f', 35), ('B', 2), ('i', 640), ('i', 480)]]
    header += [f'element vertex {len(vertices)}', *(f'property {real} {axis}' for axis in 'xyz')]
    header += ['property list uchar int views', 'property ushort intensity'] if extra else []
    header += [f'property uchar {colour}' for colour in ('red', 'green', 'blue')] if 'vertex' in colours else []
    for number, vertex in enumerate(vertices):
        row = [(code[real], value) for value in vertex]
        row += [('B', number % 3), *[('i', -1)] * (number % 3), ('H', number)] if extra else []
        rows.append(row + ([('B', 0), ('B', 0), ('B', 1)] if 'vertex' in colours else []))
    header += [f'element face {len(polygons)}']
    header += ['property uchar flag'] if extra else []
    header += [f'property list {length} {index} vertex_ind{"ex" if extra else "ices"}']
    header += [f'property uchar {colour}' for colour in ('red', 'green', 'blue', 'alpha')] if 'face' in colours else []
    for polygon in polygons:
        row = [('B', 7)] if extra else []
        row += [(code[length], len(polygon)), *((code[index], i) for i in polygon)]
        rows.append(row + ([('B', 255), ('B', 0), ('B', 0), ('B', 255)] if 'face' in colours else []))
    header += ['element edge 1', 'property int vertex1'] if extra else []
    rows += [[('i', 0)]] if extra else []
    start = '\n'.join([*header, 'end_header\n']).encode()
    if kind == 'ascii':
        return start + text([[value for _, value in row] for row in rows]).encode()
    return start + b''.join(struct.pack(order + c, v) for row in rows for c, v in row)


def off(vertices, polygons, keyword='OFF\n', before=(), after='', face='', comments=''):
    rows = [[*v, *before] for v in vertices]
    faces = ''.join(f'{len(p)} ' + ' '.join(map(str, p)) + f'{face}{comments}\n' for p in polygons)
    counts = f'{len(vertices)} {len(polygons)} 0{comments}\n'
    return keyword + counts + text(rows).replace('\n', f'{after}{comments}\n') + faces


def off_homogeneous(vertices, polygons):
    return off(np.column_stack([2 * vertices, np.full(len(vertices), 2)]), polygons, '4OFF\n')


def stl(vertices, polygons, header=b'', count=None, trailing=b''):
    corners = vertices[cut(vertices, polygons)].astype('<f4')
    rows = b''.join(bytes(12) + triangle.tobytes() + bytes(2) for triangle in corners)
    return header.ljust(80, b'\0') + struct.pack('<I', len(corners) if count is None else count) + rows + trailing


def stl_text(vertices, polygons, name='part', end='endsolid'):
    facets = ''.join(
        f'facet normal 0 0 1\n outer loop\n{"".join("  vertex " + text([v]) for v in t)} endloop\nendfacet\n'
        for t in vertices[cut(vertices, polygons)]
    )
    return f'solid {name}\n{facets}{end}'


class Gltf:
    """A document with a buffer that grows."""

    def __init__(self):
        self.data = b''
        self.tree = {
            'asset': {'version': '2.0'},
            'scene': 0,
            'scenes': [{'nodes': [0]}],
            'bufferViews': [],
            'accessors': [],
        }

    def view(self, content, **more):
        self.data += bytes(-len(self.data) % 4)
        self.tree['bufferViews'].append({'buffer': 0, 'byteOffset': len(self.data), 'byteLength': len(content), **more})
        self.data += content
        return len(self.tree['bufferViews']) - 1

    def accessor(self, array, **more):
        array = np.asarray(array)
        kinds = {'i1': 5120, 'u1': 5121, 'i2': 5122, 'u2': 5123, 'u4': 5125, 'f4': 5126}
        component = kinds[array.dtype.str[1:]]
        kind = {1: 'SCALAR', 2: 'VEC2', 3: 'VEC3', 4: 'VEC4', 16: 'MAT4'}[1 if array.ndim == 1 else array.shape[1]]
        view = {} if 'sparse' in more else {'bufferView': self.view(array.tobytes())}
        found = {**view, 'componentType': component, 'count': len(array), 'type': kind}
        self.tree['accessors'].append({**found, **more})
        return len(self.tree['accessors']) - 1

    def mesh(self, primitive, **node):
        self.tree |= {'meshes': [{'primitives': [primitive]}], 'nodes': [{'mesh': 0, **node}]}
        return self

    def glb(self):
        tree = json.dumps(self.tree | {'buffers': [{'byteLength': len(self.data)}]}).encode()
        tree, data = tree + b' ' * (-len(tree) % 4), self.data + bytes(-len(self.data) % 4)
        chunks = b''.join(struct.pack('<II', len(c), kind) + c for c, kind in ((tree, 0x4E4F534A), (data, 0x4E4942)))
        return b'glTF' + struct.pack('<II', 2, 12 + len(chunks)) + chunks

    def gltf(self, uri=None):
        uri = uri or 'data:application/octet-stream;base64,' + base64.b64encode(self.data).decode()
        return json.dumps(self.tree | {'buffers': [{'uri': uri, 'byteLength': len(self.data)}]})


def positions(document, vertices, kind):
    """The accessor of the vertices, and what its node must do to them."""
    if kind == 'normalised':
        document.tree['extensionsRequired'] = ['KHR_mesh_quantization']
        return document.accessor((8 * vertices).astype('<u2'), normalized=True), {'scale': [65535 / 8] * 3}
    if kind == 'quantised':
        return document.accessor((8 * vertices).astype('<i1')), {'scale': [1 / 8] * 3}
    if kind == 'sparse':
        indices, values = (
            document.view(a.tobytes()) for a in (np.arange(len(vertices), dtype='<u2'), vertices.astype('<f4'))
        )
        sparse = {
            'count': len(vertices), 'indices': {'bufferView': indices, 'componentType': 5123}, 'values': {'bufferView': values}
        }  # fmt: skip
        return document.accessor(vertices.astype('<f4'), sparse=sparse), {}
    if kind == 'interleaved':
        rows = np.column_stack([np.full((len(vertices), 2), np.nan), vertices]).astype('<f4')
        found = document.accessor(vertices.astype('<f4'), byteOffset=8)
        document.tree['accessors'][found]['bufferView'] = document.view(rows.tobytes(), byteStride=20)
        return found, {}
    return document.accessor(vertices.astype('<f4')), {}


def glb(vertices, polygons, kind='plain', index='<u2', colours=False, **node):
    document, local = Gltf(), vertices - vertices[0]
    faces = cut(vertices, polygons)
    if kind == 'mirrored':
        local, node = local * [-1, 1, 1], {'scale': [-1, 1, 1]}
        faces = faces[:, ::-1]
    found, more = positions(document, local, kind)
    primitive = {'attributes': {'POSITION': found}, 'indices': document.accessor(faces.reshape(-1).astype(index))}
    if kind == 'corners':
        primitive = {'attributes': {'POSITION': document.accessor(local[faces].reshape(-1, 3).astype('<f4'))}}
    if kind == 'strips':
        following = np.append(faces[1:, 0], faces[-1, 2])  # triangles that only turn the strip stand between the others
        strip = np.column_stack([faces, faces[:, 2], faces[:, 2], following])
        primitive |= {'mode': 5, 'indices': document.accessor(strip.reshape(-1).astype(index))}
    if colours:
        primitive['attributes']['COLOR_0'] = document.accessor(
            np.tile(np.array([0, 0, 1, 255], '<u1'), (len(vertices), 1)), normalized=True
        )
    node = {'translation': vertices[0].tolist(), **node, **more}
    if kind == 'matrix':
        node = {'matrix': np.block([[np.eye(3), vertices[:1].T], [np.zeros(3), 1]]).T.reshape(-1).tolist()}
    if kind == 'instanced':
        instances = document.accessor(vertices[:1].astype('<f4'))
        node = {'extensions': {'EXT_mesh_gpu_instancing': {'attributes': {'TRANSLATION': instances}}}}
    return document.mesh(primitive, **node)
