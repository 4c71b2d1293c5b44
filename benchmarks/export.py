"""Exported functions, called in another process without this package: the largest difference, megabytes, and seconds to export.

    python -m benchmarks.export                     StableHLO
    python -m benchmarks.export --format=onnx       ONNX (pip install -e '.[export]')

Networks have the sizes of their papers and random weights; `objects` is that of the package. A difference is relative to the
largest value that a function returns, over batches of 1 and 3. Seconds are of the processor. B batch, T points.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import report
from onet_jax import models
from onet_jax.configs import load_config
from onet_jax.convert.exported import export_functions, find_functions
from onet_jax.data.fields import example_batch
from onet_jax.run import load_run

NETWORKS = ('objects', 'onet_points', 'onet_image', 'occupancy_flow', 'texture_field', 'nerf')
SIZES = ({'B': 1, 'T': 5, 'P': 30}, {'B': 3, 'T': 70, 'P': 41})
# FOLDER NAME ...: calls FOLDER/NAME.FORMAT with the arrays of FOLDER/NAME_K.npz, and writes what it returns.
CALL = """
import sys
sys.modules['onet_jax'] = None
import numpy as np
folder, file_format, *names = sys.argv[1:]
for name in names:
    file = f'{folder}/{name}.{file_format}'
    if file_format == 'onnx':
        import onnxruntime
        session = onnxruntime.InferenceSession(file)
        call = lambda *arrays: session.run(None, dict(zip((i.name for i in session.get_inputs()), arrays)))
    else:
        import jax
        exported = jax.export.deserialize(open(file, 'rb').read())
        assert exported.platforms == ('cpu', 'cuda', 'tpu')
        def call(*arrays):
            arguments, _ = jax.tree.unflatten(exported.in_tree, arrays)
            return jax.tree.leaves(exported.call(*arguments))
    for k in range(2):
        arrays = np.load(f'{folder}/{name}_{k}.npz')
        np.savez(f'{folder}/{name}_{k}_out.npz', *call(*(arrays[i] for i in arrays)))
"""


class Export(NamedTuple):
    """How one function was exported."""

    difference: float
    megabytes: float
    seconds: float


def measure(
    method: models.Method,
    params: dict,
    data: ConfigDict,
    folder: Path,
    file_format: str,
    names: Sequence[str] = (),
) -> dict[str, Export]:
    """Export functions, by default all, to a folder that is new, and call them in another process."""
    known, rng, files, seconds, expected = find_functions(method, params, data), np.random.default_rng(0), {}, {}, {}
    names = names or tuple(known)
    for name in names:
        start = time.process_time()
        (files[name],) = export_functions(method, params, data, folder / name, [name], file_format)
        seconds[name] = time.process_time() - start
        files[name].rename(folder / files[name].name)
        for k, sizes in enumerate(SIZES):
            leaves, tree = jax.tree.flatten(tuple(known[name].arguments.values()))
            arrays = [_draw(rng, [sizes.get(str(n), n) for n in leaf.shape], leaf.dtype) for leaf in leaves]
            np.savez(folder / f'{name}_{k}.npz', *arrays)
            given = dict(zip(known[name].arguments, jax.tree.unflatten(tree, arrays), strict=True))
            # What is always empty is no argument of the file.
            empty = dict.fromkeys(method.signatures[name].arguments, np.zeros((sizes['B'], 0), np.float32))
            expected[name, k] = jax.tree.leaves(getattr(method.model, name)(params, *(empty | given).values()))
    subprocess.run([sys.executable, '-c', CALL, folder, file_format, *names], check=True)
    differences = dict.fromkeys(names, 0.0)
    for (name, k), values in expected.items():
        with np.load(folder / f'{name}_{k}_out.npz') as found:
            for array, value in zip(found.values(), values, strict=True):
                difference = np.abs(array - value).max() / np.abs(value).max()
                differences[name] = max(differences[name], float(difference))
    sizes = {name: (folder / file.name).stat().st_size / 1e6 for name, file in files.items()}
    return {name: Export(differences[name], sizes[name], seconds[name]) for name in names}


def _draw(rng, shape, dtype):
    return rng.integers(0, 9, shape).astype(dtype) if dtype == np.int32 else rng.uniform(-0.5, 0.5, shape).astype(dtype)


def draw_weights(config: ConfigDict) -> tuple[models.Method, dict]:
    """A network of a config with random weights, none of which are zero."""
    method, rng = models.build(config), np.random.default_rng(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0), example_batch(config.data))

    def draw(path, leaf):
        noise = 0.6 * rng.normal(size=leaf.shape) / np.sqrt(leaf.size / leaf.shape[-1])
        return np.float32(np.abs(1 + noise) if path[-1].key in ('scale', 'running_var') else noise)

    return method, jax.tree_util.tree_map_with_path(draw, shapes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--format', choices=['stablehlo', 'onnx'], default='stablehlo')
    parser.add_argument('--networks', nargs='+', default=NETWORKS)
    asked, rows, figures = parser.parse_args(), [], {}
    for network in asked.networks:
        if network == 'objects':
            run = load_run(network)
            method, params, data = run.method, run.params, run.config.data
        else:
            config = load_config(network)
            (method, params), data = draw_weights(config), config.data
        with tempfile.TemporaryDirectory() as folder:
            names = ['occupancy'] if (network, asked.format) == ('objects', 'onnx') else ()
            exports = measure(method, params, data, Path(folder), asked.format, names)
        for name, export in exports.items():
            text = f'{export.difference:.1e}  {export.megabytes:6.2f} MB  {export.seconds:5.1f} s'
            rows.append((f'{network} {name}', text))
            figures[f'{network} {name}'] = export._asdict()
            print(*rows[-1], flush=True)
    report(f'exports, {asked.format}', {'batches': [1, 3], 'points': [5, 70]}, rows, figures)


if __name__ == '__main__':
    main()
