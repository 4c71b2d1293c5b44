"""Reconstruction of a user's files to meshes in the user's frame: resumable, with the status of each file and an HTML page."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.fields import find_sources, read_inputs, show, shows_objects
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.geometry.meshes import as_geometry, check_format, load_geometry, normalise, save_mesh
from onet_jax.geometry.mise import dense_grid
from onet_jax.inference.out_of_distribution import SHARE, Domain, measure, summarise
from onet_jax.models.method import Method, Model, digest_arrays
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
    """Reconstruct a file, or all files of a folder, to OUTPUT/<name of the source>.<format>; returns the files written.

    OUTPUT/manifest.json has the status of every input, 'done' or 'failed' with the reason: one bad input never stops the
    others, and another run makes what is not done yet. It makes all meshes again for other weights or settings, and that of an
    input that has changed. OUTPUT/index.html shows the first `MAX_SHOWN` inputs beside their meshes, and which are out of
    distribution. find_domain: gives the training distribution, or None where it is not known; it is called after all
    arguments have been checked.

    Raises InputError, before anything is written, when two inputs share a name or a mesh would replace an input; after all is
    done, when any input failed.
    """
    check_format(file_format)
    sources = find_sources(config.data, inputs)
    # One at a time where the position in the batch matters, as of sampled latent codes: it depends on what was done before.
    together = shows_objects(config.data) and not config.eval.get('sample', False)
    batch_size = config.eval.batch_size if together else 1
    output = Path(output)
    targets = {source: output / f'{source.name}.{file_format}' for source in sources}
    _check_targets(targets)
    domain = find_domain()
    manifest = _open_manifest(output, _describe_settings(params, config, domain))
    items = manifest['items']
    waiting = [s for s, target in targets.items() if not _is_done(items.get(s.name), _identify(s), output, target)]
    if len(waiting) < len(targets):
        print(f'{len(targets) - len(waiting)} of {len(targets)} inputs are done already', flush=True)
    for source in waiting:
        items.pop(source.name, None)
    write_json(output / 'manifest.json', manifest)  # first: it must not call done what is replaced next
    for some in (waiting[i : i + batch_size] for i in range(0, len(waiting), batch_size)):
        workspace = output / f'{some[0].name}.unfinished' if batch_size == 1 else None
        results = _reconstruct_batch(some, method, params, config, domain, workspace)
        for source, result in results.items():
            items[source.name] = {**_identify(source), **_write(result, targets[source], output)}
            print(_report(source, targets[source], items[source.name]), flush=True)
        write_json(output / 'manifest.json', manifest)
        if workspace is not None and workspace.is_dir() and items[some[0].name]['status'] == 'done':
            shutil.rmtree(workspace)
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
    """The result of one input: a mesh or a cloud in the frame of the user, or the reason why there is none."""

    geometry: trimesh.Trimesh | trimesh.PointCloud | None = None
    score: float | None = None  # out-of-distribution score, see `Domain`
    reason: str = ''


def _reconstruct_batch(
    sources: Sequence[Source],
    method: Method,
    params: dict,
    config: ConfigDict,
    domain: Domain | None,
    workspace: Path | None,
) -> dict[Source, Reconstruction]:
    results, read = {}, {}
    for source in sources:
        try:
            read[source] = read_inputs(config.data, source, config.seed)
        except (InputError, OSError) as error:
            results[source] = Reconstruction(reason=str(error))
    if not read:
        return results
    inputs = {name: np.stack([seen[name] for seen, _ in read.values()]) for name in next(iter(read.values()))[0]}
    try:
        predictions = method.predict(params, inputs, jax.random.key(config.seed), workspace)
    except InputError as error:  # the field of an input is not finite
        if len(read) > 1:
            for source in read:
                results |= _reconstruct_batch([source], method, params, config, domain, workspace)
            return results
        return {**results, **{source: Reconstruction(reason=f'{source.path}: {error}') for source in read}}
    scores = [None] * len(read)
    if domain is not None:
        codes = summarise(method.model.encode(params, *inputs.values()))
        scores = domain.score(codes, measure(inputs)).tolist()
    for (source, (seen, frame)), prediction, score in zip(read.items(), predictions, scores, strict=True):
        geometry = as_geometry(prediction)
        if not len(geometry.vertices):
            results[source] = Reconstruction(
                reason=f'{source.path}: {_explain_empty(method.model, params, config, seen)}'
            )
            continue
        geometry.vertices = frame.to_user(geometry.vertices)
        results[source] = Reconstruction(geometry, score)
    return results


def _write(result: Reconstruction, target: Path, output: Path) -> dict:
    """Write the mesh, or delete that of an earlier run where this one failed; returns the entry of the manifest."""
    if result.geometry is None:
        target.unlink(missing_ok=True)
        return {'status': 'failed', 'reason': result.reason}
    save_mesh(result.geometry, target)
    item: dict[str, Any] = {'status': 'done', 'mesh': target.relative_to(output).as_posix()}
    item |= {'vertices': len(result.geometry.vertices), 'faces': len(getattr(result.geometry, 'faces', ()))}
    return item if result.score is None else {**item, 'out_of_distribution_score': result.score}


def bind_input(model: Model, params: dict, config: ConfigDict, inputs: dict[str, np.ndarray]) -> Callable:
    """The field [T, 3] -> logits [T] of one input, in object coordinates.

    Raises InputError for a model without such a field, as of point sets, voxels or scenes.
    """
    if not hasattr(model, 'bind') or 'scene' in inputs:
        raise InputError(
            f'model: expected one with a field of a whole object, found {type(model).__name__} of {" and ".join(inputs)}'
        )
    cond = model.encode(params, *(array[None] for array in inputs.values()))
    latent = model.prior(jax.random.key(config.seed), np.arange(1)) if config.eval.sample else None
    return model.bind(params, cond, latent)


def _explain_empty(model: Model, params: dict, config: ConfigDict, inputs: dict[str, np.ndarray]) -> str:
    """Why the mesh is empty; for the field of an object also the threshold at which it would not be."""
    threshold = config.eval.get('threshold')
    said = f'the network finds nothing inside at threshold {threshold}'
    if not (hasattr(model, 'bind') and shows_objects(config.data)):
        return f'{said}; check that y is up, and try another --threshold, or --cell for a scene'
    logits = dense_grid(bind_input(model, params, config, inputs), num_points=config.mesh.resolution + 1)
    probs = 1 / (1 + np.exp(-logits))
    shares = (0.5, 0.9, 0.99, 0.999)
    quantiles = ', '.join(f'{share:.1%} below {np.quantile(probs, share):.3g}' for share in shares)
    return (
        f'{said}; its probabilities of being inside are {probs.min():.3g} to {probs.max():.3g}, {quantiles}. Check that the '
        'object is upright (y up) and resembles the training shapes; '
        f'--threshold={np.quantile(probs, 0.99):.3g} would make 1 % of the cube the inside'
    )


def _report(source: Source, target: Path, item: dict) -> str:
    if item['status'] == 'failed':
        return f'{source.path}: FAILED: {item["reason"]}'
    faces = f', {item["faces"]} faces' if item['faces'] else ''
    words = [f'{source.path} -> {target}: {item["vertices"]} vertices{faces}', describe(item)]
    return ', '.join(filter(None, words))


def describe(item: dict) -> str:
    """The out-of-distribution score of an input in words; '' where it was not measured."""
    score = item.get('out_of_distribution_score')
    if score is None:
        return ''
    if score > 1:
        return f'OUT OF DISTRIBUTION ({score:.2f} times the limit): do not trust this shape'
    return f'within the training distribution ({score:.2f} times the limit)'


def _write_page(
    path: Path,
    done: dict[Source, Path],
    failed: dict[Source, dict],
    items: dict,
    config: ConfigDict,
    domain: Domain | None,
) -> None:
    shown, data = [], config.data.copy_and_resolve_references()
    if 'image_size' in data:  # a photo is shown at a higher resolution than the network sees
        with data.unlocked():
            data.image_size = SIZE
    for source in list(done)[:MAX_SHOWN]:
        inputs, frame = read_inputs(data, source, config.seed)
        geometry = load_geometry(done[source])
        seen = show(inputs)
        if seen is not None and not shows_objects(data):  # a scene is shown normalised, as an object
            network, frame = frame, normalise(geometry.vertices)
            seen = frame.to_object(network.to_user(seen))
        geometry.vertices = frame.to_object(geometry.vertices)
        shown.append(Item(source.name, describe(items[source.name]), (seen, geometry)))
    num_outside = sum(items[source.name].get('out_of_distribution_score', 0) > 1 for source in done)
    write_page(
        path,
        title=f'{len(done)} reconstructions',
        lead=_lead(config, domain, num_outside, len(done)),
        summary={'done': str(len(done)), 'failed': str(len(failed))},
        items=shown,
        column_titles=('input', 'reconstruction'),
    )


def _lead(config: ConfigDict, domain: Domain | None, num_outside: int, num_inputs: int) -> str:
    known = f'Threshold {config.eval.threshold:g}.' if 'threshold' in config.eval else ''
    known += f' The first {MAX_SHOWN} of {num_inputs} are shown.' if num_inputs > MAX_SHOWN else ''
    if domain is None:
        return f'{known} Whether the inputs resemble those of the training was not measured.'
    return (
        f'{known} {num_outside} of {num_inputs} inputs are out of distribution: their codes, or extent, density and noise of '
        f'their points, are farther from those of training inputs than {SHARE:.0%} of the validation inputs are. A network of '
        'this kind answers such inputs with a shape that it knows, not with the one that is there.'
    )


def _describe_settings(params: dict, config: ConfigDict, domain: Domain | None) -> dict:
    """All that the meshes of a run, and the text about them, depend on."""
    groups = {name: config[name].to_dict() for name in ('model', 'data', 'eval', 'mesh')}
    limit = None if domain is None else domain.limit
    settings = {'weights': digest_arrays(params), 'limit': limit, 'seed': config.seed, **groups}
    return json.loads(json.dumps(settings))  # as it is read again


def _open_manifest(output: Path, settings: dict) -> dict:
    """The manifest of an earlier run with the same settings, or a new one. Raises InputError for another file."""
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
    """The identity of an input in the manifest: path, box, size and time of modification."""
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
    """Raises InputError where a mesh would replace another one or an input."""
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
