"""From the user's own files to meshes in the user's frame: a folder at a time, and what became of each file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.images import load_image
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.evaluation.report import show_input
from onet_jax.files import write_json
from onet_jax.geometry.meshes import MESH_FORMATS, load_mesh, save_mesh
from onet_jax.geometry.mise import dense_grid
from onet_jax.inference.domain import SHARE, Domain, hash_weights, summarise
from onet_jax.inference.inputs import bind_input, find_reader
from onet_jax.models import auto_decoding, occupancy_network
from onet_jax.models.method import Method
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import SIZE, Item

MAX_SHOWN = 100  # items of a page


def reconstruct_files(
    method: Method,
    params: dict,
    config: ConfigDict,
    inputs: str | Path,
    output: str | Path,
    file_format: str,
    find_domain: Callable[[], Domain | None] = lambda: None,
) -> list[Path]:
    """Reconstruct a file or all that a folder has into OUTPUT/<name of the source>.<format>; returns the files written.

    OUTPUT/manifest.json has the status of every input, 'done' or 'failed' with the reason: one bad input stops no other, and
    another run makes what is not done yet. It makes everything anew for other weights or settings, and an input anew that
    has changed. OUTPUT/index.html shows inputs beside their meshes, the first `MAX_SHOWN`, and says which are outside of the
    domain of the network. `find_domain` is asked for it when all arguments have been checked; None is unknown.

    Raises ValueError before anything is written when two inputs share a name or a mesh would replace an input; after all is
    done, when any input failed.
    """
    reader = find_reader(config)
    if file_format not in MESH_FORMATS:
        raise InputError(f'--format: expected one of {MESH_FORMATS}, found {file_format!r}')
    # One at a time where the place in the batch matters, for latent and for fitted codes: it depends on what was done before.
    batch_size = 1 if config.eval.sample or config.data.input == 'index' else config.eval.batch_size
    if config.data.input == 'index':
        method = auto_decoding.fitting(method, config)
    output = Path(output)
    targets = {source: output / f'{source.name}.{file_format}' for source in reader.find(inputs)}
    _check_targets(targets)
    domain = find_domain()
    manifest = _open_manifest(output, _describe_settings(params, config, domain))
    items = manifest['items']
    waiting = [s for s, target in targets.items() if not _is_done(items.get(s.name), _identify(s), output, target)]
    if len(waiting) < len(targets):
        print(f'{len(targets) - len(waiting)} of {len(targets)} inputs are done already', flush=True)
    for source in waiting:
        items.pop(source.name, None)
    write_json(output / 'manifest.json', manifest)  # it vouches for nothing that the next lines replace
    for sources in (waiting[i : i + batch_size] for i in range(0, len(waiting), batch_size)):
        results = _reconstruct_batch(sources, method, params, config, domain)
        for source, result in results.items():
            items[source.name] = {**_identify(source), **_write(result, targets[source], output)}
            print(_report(source, targets[source], items[source.name]), flush=True)
        write_json(output / 'manifest.json', manifest)
    failed = {s: items[s.name] for s in targets if items[s.name]['status'] == 'failed'}
    done = {source: target for source, target in targets.items() if source not in failed}
    if done:
        _write_page(output / 'index.html', done, failed, items, config, domain)
    else:
        (output / 'index.html').unlink(missing_ok=True)
    if failed:
        source, item = next(iter(failed.items()))
        others = (
            f' ({len(failed)} of {len(targets)} inputs failed, see {output / "manifest.json"})'
            if len(targets) > 1
            else ''
        )
        raise InputError(f'{item["reason"]}{others}')
    return list(done.values())


class Reconstruction(NamedTuple):
    """What became of one input: a mesh in the frame of the user, or a reason why there is none."""

    mesh: trimesh.Trimesh | None = None
    strangeness: float | None = None  # see `Domain`
    reason: str = ''


def _reconstruct_batch(
    sources: Sequence[Source], method: Method, params: dict, config: ConfigDict, domain: Domain | None
) -> dict[Source, Reconstruction]:
    results, read = {}, {}
    for source in sources:
        try:
            read[source] = find_reader(config).read(source, config)
        except (ValueError, OSError) as error:
            results[source] = Reconstruction(reason=str(error))
    if not read:
        return results
    values = np.stack([values for values, _ in read.values()])
    try:
        meshes = method.reconstruct(params, values, jax.random.key(config.seed))
    except ValueError as error:  # the field of an input is not finite
        if len(read) > 1:
            for source in read:
                results |= _reconstruct_batch([source], method, params, config, domain)
            return results
        return {**results, **{source: Reconstruction(reason=f'{source.path}: {error}') for source in read}}
    strangeness = [None] * len(read)
    if domain is not None:
        strangeness = domain.strangeness(summarise(occupancy_network(config.model).encode(params, values))).tolist()
    for (source, (seen, frame)), mesh, strange in zip(read.items(), meshes, strangeness, strict=True):
        if not len(mesh.faces):
            results[source] = Reconstruction(reason=f'{source.path}: {_explain_empty(params, config, seen)}')
            continue
        mesh.vertices = frame.to_user(mesh.vertices)
        results[source] = Reconstruction(mesh, strange)
    return results


def _write(result: Reconstruction, target: Path, output: Path) -> dict:
    """Write the mesh; returns what the manifest says. The mesh of an earlier run is not left where this one failed."""
    if result.mesh is None:
        target.unlink(missing_ok=True)
        return {'status': 'failed', 'reason': result.reason}
    save_mesh(result.mesh, target)
    item = {'status': 'done', 'mesh': target.relative_to(output).as_posix()}
    item |= {'vertices': len(result.mesh.vertices), 'faces': len(result.mesh.faces)}
    return item if result.strangeness is None else {**item, 'strangeness': result.strangeness}


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
        mesh.merge_vertices(merge_tex=True, merge_norm=True)  # in files such as stl no two faces share a vertex
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


def _describe_settings(params: dict, config: ConfigDict, domain: Domain | None) -> dict:
    """What decides how the meshes of a run come out, and what is said of them."""
    groups = {name: config[name].to_dict() for name in ('model', 'data', 'eval', 'mesh')}
    limit = None if domain is None else domain.limit
    settings = {'weights': hash_weights(params).hex(), 'limit': limit, 'seed': config.seed, **groups}
    return json.loads(json.dumps(settings))  # as it is read again


def _open_manifest(output: Path, settings: dict) -> dict:
    """What an earlier run with the same settings left behind, or a new manifest. Raises ValueError for another file."""
    path, new = output / 'manifest.json', {'settings': settings, 'items': {}}
    if not path.exists():
        return new
    try:
        old = json.loads(path.read_text())
        whole = all(item['status'] == 'failed' or item['mesh'] for item in old['items'].values())
        return old if whole and old['settings'] == settings else new
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path}: expected the manifest of a reconstruction, found another file ({error!r}); choose another --output'
        ) from error


def _identify(source: Source) -> dict:
    """Which file, which part of it, and in which state."""
    stat = source.path.stat() if source.path.exists() else None
    state = [stat.st_size, stat.st_mtime_ns] if stat else None
    return {'input': str(source.path.absolute()), 'box': source.box and list(source.box), 'state': state}


def _is_done(item: dict | None, identity: dict, output: Path, target: Path) -> bool:
    return bool(
        item
        and item['status'] == 'done'
        and output / item['mesh'] == target
        and all(item[key] == value for key, value in identity.items())
        and target.is_file()
    )


def _check_targets(targets: dict[Source, Path]) -> None:
    """Raises ValueError where a mesh would replace another one or an input."""
    inputs = {source.path.resolve(): source.path for source in targets}
    owners: dict[Path, Path] = {}
    for (_, path, _), target in targets.items():
        if target.resolve() in inputs:
            raise InputError(
                f'{target}: expected a new file, found the input {inputs[target.resolve()]}; choose another --output'
            )
        if target in owners:
            raise InputError(
                f'{target}: expected one input of this name, found {owners[target]} and {path}; rename one of them'
            )
        owners[target] = path
