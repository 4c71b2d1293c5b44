"""From the user's own files to meshes in the user's frame: a folder at a time, and what became of each file."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.images import load_image
from onet_jax.data.sources import Source
from onet_jax.evaluation import fit
from onet_jax.evaluation.domain import SHARE, Domain
from onet_jax.evaluation.inputs import bind_input, find_reader
from onet_jax.evaluation.report import show_input
from onet_jax.files import write_json
from onet_jax.geometry.meshes import MESH_FORMATS, Frame, load_mesh, save_mesh
from onet_jax.geometry.mise import dense_grid
from onet_jax.models.method import Method
from onet_jax.models.onet import occupancy_network
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import SIZE, Item

MAX_SHOWN = 100  # items of a page


def reconstruct_input(
    method: Method, params: dict, config: ConfigDict, values: np.ndarray, frame: Frame
) -> trimesh.Trimesh:
    """The mesh of one input, in the frame of the input; no vertices where the level set is empty."""
    (mesh,) = method.reconstruct(params, values[None], jax.random.key(config.seed))
    return _to_user(mesh, frame)


def _to_user(mesh: trimesh.Trimesh, frame: Frame) -> trimesh.Trimesh:
    moved = mesh.copy()
    moved.vertices = frame.to_user(mesh.vertices)
    return moved


def reconstruct_files(
    method: Method,
    params: dict,
    config: ConfigDict,
    inputs: str | Path,
    output: str | Path,
    file_format: str,
    domain: Domain | None = None,
) -> list[Path]:
    """Reconstruct a file or all that a folder has into OUTPUT/<name of the source>.<format>; returns the files written.

    OUTPUT/manifest.json has the status of every input, 'done' or 'failed' with the reason: one bad input stops no other, and
    another run makes what is not done yet. It makes everything anew for other weights or settings, and an input anew that
    has changed. OUTPUT/index.html shows inputs beside their meshes, the first `MAX_SHOWN`, and says which are outside of the
    domain of the network, where that is known.

    Raises ValueError before anything is written when two inputs share a name or a mesh would replace an input; after all is
    done, when any input failed.
    """
    reader = find_reader(config)
    if file_format not in MESH_FORMATS:
        raise ValueError(f'--format: expected one of {MESH_FORMATS}, found {file_format!r}')
    if config.data.input == 'index':
        method = fit.fitting(method, config)
    output = Path(output)
    targets = {source: output / f'{source.name}.{file_format}' for source in reader.find(inputs)}
    _check_targets(targets)
    manifest = _open_manifest(output, _describe_settings(params, config))
    items = manifest['items']
    waiting = [s for s, target in targets.items() if not _is_done(items.get(s.name), _identify(s), target)]
    if len(waiting) < len(targets):
        print(f'{len(targets) - len(waiting)} of {len(targets)} inputs are done already', flush=True)
    # A latent code is drawn by the place in the batch: one at a time, so that it does not depend on what was done before.
    batch_size = 1 if config.eval.sample else config.eval.batch_size
    for sources in (waiting[i : i + batch_size] for i in range(0, len(waiting), batch_size)):
        read = {}
        for source in sources:
            try:
                read[source] = reader.read(source, config)
            except (ValueError, OSError) as error:
                items[source.name] = {**_identify(source), 'status': 'failed', 'reason': str(error)}
        meshes = []
        if read:
            values = np.stack([values for values, _ in read.values()])
            meshes = method.reconstruct(params, values, jax.random.key(config.seed))
        for (source, (values, frame)), mesh in zip(read.items(), meshes, strict=True):
            item = _write(source, values, frame, mesh, targets[source], params, config, domain)
            items[source.name] = {**_identify(source), **item}
        for source in sources:
            print(_report(source, targets[source], items[source.name]), flush=True)
        write_json(output / 'manifest.json', manifest)
    failed = {s: items[s.name] for s in targets if items[s.name]['status'] == 'failed'}
    done = {source: target for source, target in targets.items() if source not in failed}
    if done:
        _write_page(output / 'index.html', done, failed, items, config, domain)
    if failed:
        source, item = next(iter(failed.items()))
        others = (
            f' ({len(failed)} of {len(targets)} inputs failed, see {output / "manifest.json"})'
            if len(targets) > 1
            else ''
        )
        raise ValueError(f'{item["reason"]}{others}')
    return list(done.values())


def _write(
    source: Source,
    values: np.ndarray,
    frame: Frame,
    mesh: trimesh.Trimesh,
    target: Path,
    params: dict,
    config: ConfigDict,
    domain: Domain | None,
) -> dict:
    """Write the mesh of an input; returns its status."""
    if not len(mesh.faces):
        return {'status': 'failed', 'reason': f'{source.path}: {_explain_empty(params, config, values)}'}
    save_mesh(_to_user(mesh, frame), target)
    item = {'status': 'done', 'mesh': target.name, 'vertices': len(mesh.vertices), 'faces': len(mesh.faces)}
    if domain is not None:
        code = occupancy_network(config.model).encode(params, values[None])
        item['strangeness'] = float(domain.strangeness(np.asarray(code))[0])
    return item


def _explain_empty(params: dict, config: ConfigDict, values: np.ndarray) -> str:
    """Why there is no level set, and at which threshold there would be one."""
    logits = dense_grid(bind_input(params, config, values), num_points=config.mesh.resolution + 1)
    probs = 1 / (1 + np.exp(-logits))
    shares = (0.5, 0.9, 0.99, 0.999)
    quantiles = ', '.join(f'{share:.1%} below {np.quantile(probs, share):.3g}' for share in shares)
    return (
        f'the network finds nothing inside at threshold {config.eval.threshold}; its probabilities of being inside are '
        f'{probs.min():.3g} to {probs.max():.3g}, {quantiles}. Check that the object is upright (y up) and resembles the '
        f'training shapes; --threshold={np.quantile(probs, 0.99):.3g} would make 1 % of the cube the inside'
    )


def _report(source: Source, target: Path, item: dict) -> str:
    if item['status'] == 'failed':
        return f'{source.path}: FAILED: {item["reason"]}'
    words = [f'{source.path} -> {target}: {item["vertices"]} vertices, {item["faces"]} faces', describe(item)]
    return ', '.join(filter(None, words))


def describe(item: dict) -> str:
    """How far an input is from those of the training, in words; nothing where that was not measured."""
    if 'strangeness' not in item:
        return ''
    if item['strangeness'] > 1:
        return f'OUTSIDE the training domain ({item["strangeness"]:.2f} times the limit): do not trust this shape'
    return f'within the training domain ({item["strangeness"]:.2f} times the limit)'


def _write_page(
    path: Path,
    done: dict[Source, Path],
    failed: dict[Source, dict],
    items: dict,
    config: ConfigDict,
    domain: Domain | None,
) -> None:
    shown, reader = [], find_reader(config)
    for source in list(done)[:MAX_SHOWN]:
        values, frame = reader.read(source, config)
        mesh = load_mesh(done[source])
        mesh.vertices = frame.to_object(mesh.vertices)
        # A photo in full, although the network sees few of its pixels; other inputs as they are seen.
        seen = load_image(source.path, SIZE, source.box) if config.data.input == 'image' else values
        shown.append(Item(source.name, describe(items[source.name]), (show_input(seen), mesh)))
    num_outside = sum(items[source.name].get('strangeness', 0) > 1 for source in done)
    write_page(
        path,
        title=f'{len(done)} reconstructions',
        lead=_lead(config, domain, num_outside, len(done)),
        summary={'done': str(len(done)), 'failed': str(len(failed))},
        items=shown,
        column_titles=('photo' if config.data.input == 'image' else 'input', 'reconstruction'),
    )


def _lead(config: ConfigDict, domain: Domain | None, num_outside: int, num_inputs: int) -> str:
    known = f'Threshold {config.eval.threshold:g}.' + (
        f' The first {MAX_SHOWN} of {num_inputs} are shown.' if num_inputs > MAX_SHOWN else ''
    )
    if domain is None:
        return f'{known} Whether the inputs resemble those of the training was not measured.'
    return (
        f'{known} {num_outside} of {num_inputs} inputs are outside the training domain: their codes are farther from those of '
        f'training inputs than {SHARE:.0%} of the validation inputs are. A network of this kind answers such inputs with a '
        'shape that it knows, not with the one that is there.'
    )


def _describe_settings(params: dict, config: ConfigDict) -> dict:
    """What decides how the meshes of a run come out."""
    weights = hashlib.sha256()
    for array in jax.tree.leaves(params):
        weights.update(np.asarray(array).tobytes())
    return {
        'weights': weights.hexdigest(),
        'seed': config.seed,
        'threshold': config.eval.threshold,
        **{f'mesh.{key}': value for key, value in config.mesh.items()},
    }


def _open_manifest(output: Path, settings: dict) -> dict:
    """What an earlier run with the same settings left behind, or a new manifest. Raises ValueError for another file."""
    path, new = output / 'manifest.json', {'settings': settings, 'items': {}}
    if not path.exists():
        return new
    try:
        old = json.loads(path.read_text())
        return old if old['settings'] == settings else new
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: expected the manifest of a reconstruction, found another file ({error}); choose another --output'
        ) from error


def _identify(source: Source) -> dict:
    """Which file, which part of it, and in which state."""
    stat = source.path.stat() if source.path.exists() else None
    state = [stat.st_size, stat.st_mtime_ns] if stat else None
    return {'input': str(source.path.absolute()), 'box': source.box and list(source.box), 'state': state}


def _is_done(item: dict | None, identity: dict, target: Path) -> bool:
    return bool(
        item
        and item['status'] == 'done'
        and item['mesh'] == target.name
        and all(item[key] == value for key, value in identity.items())
        and target.is_file()
    )


def _check_targets(targets: dict[Source, Path]) -> None:
    """Raises ValueError where a mesh would replace another one or an input."""
    inputs = {source.path.resolve(): source.path for source in targets}
    owners: dict[Path, Path] = {}
    for (_, path, _), target in targets.items():
        if target.resolve() in inputs:
            raise ValueError(
                f'{target}: expected a new file, found the input {inputs[target.resolve()]}; choose another --output'
            )
        if target in owners:
            raise ValueError(
                f'{target}: expected one input of this name, found {owners[target]} and {path}; rename one of them'
            )
        owners[target] = path
