"""UV unwrapping by the library xatlas, as a program of its own: arrays from stdin, arrays to stdout. Imports no JAX.

The library ends its process on some meshes, above all on large ones.
"""

import io
import sys

import numpy as np
import xatlas

ROUNDS = 6  # of packing: the library only estimates the size of what it packs
STEEP = 0.7  # the size at which the distances of charts, which do not shrink with them, are a large part of it


def main() -> None:
    """.npz with 'vertices', 'faces', the 'part' of each face, which becomes a mesh, and 'padding', 'size' in texels."""
    given = np.load(io.BytesIO(sys.stdin.buffer.read()))
    size = int(given['size'])
    parts = np.split(given['faces'], np.flatnonzero(np.diff(given['part'])) + 1)
    atlas, used = xatlas.Atlas(), []
    for part in parts:
        numbers, faces = np.unique(part, return_inverse=True)
        atlas.add_mesh(given['vertices'][numbers], faces.reshape(-1, 3).astype(np.uint32))
        used.append(numbers)
    options = xatlas.PackOptions()
    options.resolution, options.padding = size, int(given['padding'])
    atlas.generate(pack_options=options)
    sources, faces, uv = zip(*(atlas[i] for i in range(len(parts))), strict=True)
    uv = [coordinates * [atlas.width, atlas.height] for coordinates in uv]  # texels
    density = first = atlas.texels_per_unit
    packed = atlas
    for _ in range(ROUNDS):
        ratio = size / max(packed.width, packed.height)
        if ratio >= 1:
            break
        density *= 0.99 * ratio ** (1.5 if ratio < STEEP else 1)
        packed, options = xatlas.Atlas(), xatlas.PackOptions()
        options.texels_per_unit, options.padding = density, int(given['padding'])
        for corners, coordinates in zip(faces, uv, strict=True):
            packed.add_uv_mesh((coordinates / first).astype(np.float32), corners)
        packed.generate(pack_options=options)
    if packed is not atlas:
        orders, faces, uv = zip(*(packed[i] for i in range(len(parts))), strict=True)
        uv = [coordinates * [packed.width, packed.height] for coordinates in uv]
        sources = [source[order] for source, order in zip(sources, orders, strict=True)]
    starts = np.cumsum([0, *map(len, sources)])
    np.savez(
        sys.stdout.buffer,
        vertices=np.concatenate([numbers[source] for numbers, source in zip(used, sources, strict=True)]),
        faces=np.concatenate([part + start for part, start in zip(faces, starts, strict=False)]),
        uv=np.concatenate(uv) / max(size, packed.width, packed.height),
    )


if __name__ == '__main__':
    main()
