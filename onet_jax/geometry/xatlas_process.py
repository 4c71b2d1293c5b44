"""UV unwrapping by the library xatlas, as a program of its own: arrays from stdin, arrays to stdout. Imports no JAX.

The library ends its process on some meshes, above all on large ones.
"""

import io
import sys

import numpy as np
import xatlas


def main() -> None:
    """.npz with 'vertices', 'faces' and 'padding', 'size' in texels; one mesh for each 'part' of the faces."""
    given = np.load(io.BytesIO(sys.stdin.buffer.read()))
    atlas, options = xatlas.Atlas(), xatlas.PackOptions()
    options.resolution, options.padding = int(given['size']), int(given['padding'])
    parts = np.split(given['faces'], np.flatnonzero(np.diff(given['part'])) + 1)
    used = []
    for part in parts:
        numbers, faces = np.unique(part, return_inverse=True)
        atlas.add_mesh(given['vertices'][numbers], faces.reshape(-1, 3).astype(np.uint32))
        used.append(numbers)
    atlas.generate(pack_options=options)
    sources, faces, uv = zip(*(atlas[i] for i in range(len(parts))), strict=True)
    starts = np.cumsum([0, *map(len, sources)])
    np.savez(
        sys.stdout.buffer,
        vertices=np.concatenate([numbers[source] for numbers, source in zip(used, sources, strict=True)]),
        faces=np.concatenate([part + start for part, start in zip(faces, starts, strict=False)]),
        uv=np.concatenate(uv),
    )


if __name__ == '__main__':
    main()
