"""Reconstruction of a user's files to meshes in the user's frame: resumable, with the status of each file and an HTML page.

Of a network of clips an input is a folder of frames, and a reconstruction is a sequence with the files of `clip_files.py`.
"""

import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.fields import find_sources, has_cloud, in_order, read_inputs, sees_clips, shows_objects
from onet_jax.data.scans import load_coloured_bulk
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.files import ignores_case, one_at_a_time, remove_leftovers
from onet_jax.geometry.meshes import UPS, Frame, check_format, save_mesh
from onet_jax.geometry.mise import dense_grid
from onet_jax.geometry.quality import Quality, measure_support, measure_worst_frame, thin
from onet_jax.geometry.sequences import SEQUENCES, frames_of, move
from onet_jax.inference.clip_files import clip_files, save_clip
from onet_jax.inference.finish import UNCHANGED, Finish, check_finish, finish_geometry
from onet_jax.inference.gallery import describe, write_gallery
from onet_jax.inference.given_meshes import move_given
from onet_jax.inference.manifest import Manifest
from onet_jax.inference.origins import check_targets, identify, is_done
from onet_jax.inference.out_of_distribution import Domain, measure, summarise
from onet_jax.inference.thread_warnings import caught_warnings, warnings_by_thread
from onet_jax.models.method import Method, Model, digest_arrays
from onet_jax.parallel import spread
from onet_jax.progress import working
from onet_jax.scores import as_geometry

MAX_COLOURED = 1_000_000  # points of a cloud whose colours the vertices get
BUSY = 'expected a folder that no other reconstruction writes to, found {}; wait for it, or choose another --output'


def reconstruct_files(
    method: Method,
    params: dict,
    config: ConfigDict,
    inputs: str | Path,
    output: str | Path,
    file_format: str,
    find_domain: Callable[[], Domain | None] = lambda: None,
    finish: Finish = UNCHANGED,
    network: str = '',
) -> list[Path]:
    """Reconstruct a file, or all files of a folder, to OUTPUT/<name of the source>.<format>; returns the files written.

    Of a clip these are OUTPUT/<name>.glb, and beside it <name>.gif and <name>/000.<format>, ...

    OUTPUT/manifest.json has the status of every input, 'done' or 'failed' with the reason: one bad input never stops the
    others, whatever it raises, and another run makes what is not done yet. It makes all meshes again for other weights or
    settings, and that of an input that has changed. OUTPUT/index.html shows the first inputs beside their meshes, how far the
    meshes of clouds are from their points, their surface that no point supports, and which inputs are out of distribution.
    find_domain: gives the training distribution, or None where it is not known; it is called after all arguments have been
    checked. network: a sentence on the page about how well the network does, such as its validation IoU and the length of its
    training.

    Raises InputError, before anything is written, when two inputs share a name, for files in OUTPUT that no reconstruction has
    written and a mesh would replace, and while another run writes there; after all is done, when any input failed.
    """
    check_format(file_format)
    check_finish(finish, file_format, config.data)
    found, output = find_sources(config.data, inputs), Path(output)
    # One at a time where the position in the batch matters, as of sampled latent codes: it depends on what was done before.
    together = shows_objects(config.data) and not config.eval.get('sample')
    batch_size = config.eval.batch_size if together else 1
    with one_at_a_time(output / '.lock', BUSY):
        manifest = Manifest(output)
        sources = manifest.leave_out_written(found)
        moves = sees_clips(config.data)
        targets = {source: output / f'{source.name}.{"glb" if moves else file_format}' for source in sources}
        check_targets(targets, ignores_case=ignores_case(output / '.lock'))
        workspaces = (
            {s: t.with_name(f'{t.stem[:60]}.unfinished') for s, t in targets.items()} if batch_size == 1 else {}
        )
        paths = [*targets.values(), *workspaces.values()]
        if moves:
            paths += [path for t in targets.values() for path in clip_files(t, config.data.num_frames, file_format)[1:]]
        written = [path.relative_to(output).as_posix() for path in paths]
        written += [f'{name}.offset.json' for name in written if name.endswith('.stl')]
        written.append('index.html')
        for name in written:
            if os.path.lexists(output / name) and name not in manifest.written:
                raise InputError(
                    f'{output / name}: expected a new file, found one that no reconstruction has written; choose another '
                    '--output or move it'
                )
        domain = find_domain()
        for folder in {path.parent for path in paths}:
            remove_leftovers(folder)
        others = [name for name in manifest.items if name not in {source.name for source in sources}]
        if others:
            _say(
                f'{output / "index.html"} will show this run alone; the meshes of {len(others)} other inputs stay '
                f'({others[0]}); --output=FOLDER gives each run its own page'
            )
        settings = _describe_settings(params, config, domain, finish)
        manifest.adopt(settings | ({'format': file_format} if moves else {}))
        waiting = [s for s, target in targets.items() if not is_done(manifest.items.get(s.name), s, output, target)]
        manifest.begin([source.name for source in waiting], written)
        if len(waiting) < len(targets):
            print(f'{len(targets) - len(waiting)} of {len(targets)} inputs are done already', flush=True)
        batches = [waiting[i : i + batch_size] for i in range(0, len(waiting), batch_size)]

        def reconstruct(params, some):
            states = {source: identify(source) for source in some}
            workspace = workspaces.get(some[0])
            return states, _reconstruct_batch(some, method, params, config, domain, finish, workspace)

        what = 'inputs' if batch_size == 1 else f'batches of {batch_size} inputs'
        # On a CPU marching cubes and k-d trees of one batch run beside the network of another.
        on_each = 2 if jax.default_backend() == 'cpu' and batch_size > 1 and len(batches) > 1 else 1
        try:
            with working('reconstructing', len(batches), what) as activity, warnings_by_thread():
                for states, results in spread(reconstruct, params, batches, on_each):
                    for source, result in results.items():
                        target, state = targets[source], states[source]
                        item = state | _write(source, state, result, target, output, file_format)
                        manifest.add(source.name, item)
                        _say(_report(source, target, item))
                        workspace = workspaces.get(source)
                        if workspace is not None and workspace.is_dir() and item['status'] == 'done':
                            shutil.rmtree(workspace)
                    activity.advance()
        finally:
            manifest.end()
        return _conclude(output, targets, manifest.items, config, domain, network, file_format)


def _conclude(
    output: Path,
    targets: dict[Source, Path],
    items: dict[str, dict],
    config: ConfigDict,
    domain: Domain | None,
    network: str,
    file_format: str,
) -> list[Path]:
    """Write the page; returns the meshes. Raises InputError when any input failed."""
    failed = {s: items[s.name] for s in targets if items[s.name]['status'] == 'failed'}
    done = {source: target for source, target in targets.items() if source not in failed}
    if done:
        with working(f'writing {output / "index.html"}'):
            for message in write_gallery(output, done, failed, items, config, domain, network, file_format):
                _say(message)
    else:
        (output / 'index.html').unlink(missing_ok=True)
    if failed:
        item = next(iter(failed.values()))
        others = (
            f' ({len(failed)} of {len(targets)} inputs failed, see {output / "manifest.json"})'
            if len(targets) > 1
            else ''
        )
        raise InputError(f'{item["reason"]}{others}')
    return list(done.values())


class Reconstruction(NamedTuple):
    """The result of one input: a mesh, a cloud or a sequence in the frame of the user, or the reason why there is none."""

    geometry: Any = None
    score: float | None = None  # out-of-distribution score, see `Domain`
    quality: Quality | None = None  # of a mesh of a cloud, of a sequence in its worst frame
    up: str | None = None  # the axis of the user's frame that was found to point up
    reason: str = ''


def _reconstruct_batch(
    sources: Sequence[Source],
    method: Method,
    params: dict,
    config: ConfigDict,
    domain: Domain | None,
    finish: Finish,
    workspace: Path | None,
) -> dict[Source, Reconstruction]:
    results, read, clouds = {}, {}, {}
    said: dict[str, list[Source]] = {}
    for source in sources:
        try:
            with caught_warnings() as caught:  # they would name a line of the program
                inputs = read_inputs(config.data, source, config.seed)
                if has_cloud(config.data):
                    clouds[source] = _read_cloud(source, config, finish)
                read[source] = inputs
        except Exception as error:
            results[source] = Reconstruction(reason=_explain(source, error))
        for warning in caught:
            said.setdefault(warning, []).append(source)
    _warn(said)
    if not read:
        return results
    predictions, scores = None, [None] * len(read)
    try:
        inputs = {name: np.stack([seen[name] for seen, _ in read.values()]) for name in next(iter(read.values()))[0]}
        if domain is not None:
            codes = summarise(method.model.encode(params, *in_order(inputs)))
            scores = domain.score(codes, measure(inputs)).tolist()
        with caught_warnings() as caught:
            predictions = method.predict(params, inputs, jax.random.key(config.seed), workspace)
        _warn({warning: list(read) for warning in caught})
    except Exception as error:  # such as InputError, where the field of an input is not finite
        if len(read) == 1:
            return results | {source: Reconstruction(reason=_explain(source, error)) for source in read}
    if predictions is None:
        for source in read:
            results |= _reconstruct_batch([source], method, params, config, domain, finish, workspace)
        return results
    for (source, (seen, frame)), prediction, score in zip(read.items(), predictions, scores, strict=True):
        try:
            if 'end_clouds' in seen and hasattr(method.model, 'advect'):  # the network knows no shape
                ends = seen['end_clouds'], source.path, frame
                prediction = move_given(method.model, params, config, *ends) or prediction
            geometry = _to_user(prediction, frame)
            if geometry is None:
                raise InputError(_explain_empty(method.model, params, config, seen))
            geometry = finish_geometry(geometry, finish, *clouds.get(source, (None, None)))
            quality = None
            if source in clouds and isinstance(geometry, trimesh.Trimesh):
                quality = measure_support(geometry, clouds[source][0])
            elif 'clip' in seen:
                quality = measure_worst_frame(geometry, [frame.to_user(cloud) for cloud in seen['clip']])
            results[source] = Reconstruction(geometry, score, quality, _name_up(frame, config))
        except Exception as error:
            results[source] = Reconstruction(reason=_explain(source, error))
    return results


def _to_user(prediction: Any, frame: Frame) -> Any:
    """A prediction in the frame of the user; None for an empty one, of a sequence where every frame is empty."""
    if isinstance(prediction, SEQUENCES):
        return move(prediction, frame.to_user) if any(len(it.vertices) for it in frames_of(prediction)) else None
    geometry = as_geometry(prediction)
    geometry.vertices = frame.to_user(geometry.vertices)
    return geometry if len(geometry.vertices) else None


def _name_up(frame: Frame, config: ConfigDict) -> str | None:
    """The axis that was found to point up; None where it was given."""
    if config.data.get('up') != 'auto':
        return None
    return next(up for up, turn in UPS.items() if np.array_equal(turn, frame.turn))


def _read_cloud(source: Source, config: ConfigDict, finish: Finish) -> tuple[np.ndarray, np.ndarray | None]:
    """The points [P, 3] of an input that its mesh is measured with, and their colours [P, 3], where these are asked for."""
    data = config.data
    cloud, colours = load_coloured_bulk(source.path, data.keep_outliers, data.get('remove_outliers', False))
    kept = thin(len(cloud), MAX_COLOURED) if finish.colours else thin(len(cloud))
    return cloud[kept], None if colours is None else colours[kept]


def _warn(said: dict[str, list[Source]]) -> None:
    """One line for each warning, with the inputs that it is about."""
    for text, sources in said.items():
        _say(f'{", ".join(str(source.path) for source in sources)}: warning: {text}')


def _explain(source: Source, error: Exception) -> str:
    """Why an input failed. Of a defect of the program, which is no bad input, the traceback is printed too."""
    reason = str(error)
    if isinstance(error, MemoryError):
        reason = f'expected to find enough memory ({error})'
    elif not isinstance(error, (InputError, OSError)):
        traceback.print_exception(error)
        reason = f'{type(error).__name__}: {error}'
    return reason if str(source.path) in reason else f'{source.path}: {reason}'


def _write(source: Source, state: dict, result: Reconstruction, target: Path, output: Path, file_format: str) -> dict:
    """Write the mesh, or delete that of an earlier run where this one failed; returns the entry of the manifest."""
    frames = frames_of(result.geometry) if isinstance(result.geometry, SEQUENCES) else [result.geometry]
    try:
        if result.geometry is None:
            raise InputError(result.reason)
        if identify(source) != state:
            raise InputError(
                f'{source.path}: expected a file that stays, found that it has changed meanwhile; run again'
            )
        if isinstance(result.geometry, SEQUENCES):
            save_clip(result.geometry, target, file_format)
        else:
            save_mesh(result.geometry, target)
    except Exception as error:
        with suppress(OSError):
            target.unlink(missing_ok=True)
        return {'status': 'failed', 'reason': _explain(source, error)}
    item: dict[str, Any] = {'status': 'done', 'mesh': target.relative_to(output).as_posix()}
    item['bytes'] = target.stat().st_size  # one that is cut later is made again
    item |= {'vertices': len(frames[0].vertices), 'faces': len(getattr(frames[0], 'faces', ()))}
    if len(frames) > 1:
        item['frames'] = len(frames)
    if result.quality is not None:
        item['quality'] = result.quality._asdict()
    if result.up is not None:
        item['up'] = result.up
    return item if result.score is None else {**item, 'out_of_distribution_score': result.score}


def bind_input(model: Model, params: dict, config: ConfigDict, inputs: dict[str, np.ndarray]) -> Callable:
    """The field [T, 3] -> logits [T] of one input, in object coordinates.

    Raises InputError for a model without such a field, as of point sets, voxels or scenes.
    """
    if not hasattr(model, 'bind') or 'scene' in inputs:
        raise InputError(
            f'model: expected one with a field of a whole object, found {type(model).__name__} of {" and ".join(inputs)}'
        )
    cond = model.encode(params, *(array[None] for array in in_order(inputs)))
    latent = model.prior(jax.random.key(config.seed), np.arange(1)) if config.eval.get('sample') else None
    return model.bind(params, cond, latent)


def _explain_empty(model: Model, params: dict, config: ConfigDict, inputs: dict[str, np.ndarray]) -> str:
    """Why the mesh is empty; for the field of an object also the threshold at which it would not be."""
    threshold = config.eval.get('threshold')
    if threshold is None:
        return 'the network finds no surface; check which axis points up (--up), and whether it knows such objects'
    said = f'the network finds nothing inside at threshold {threshold}'
    if not (hasattr(model, 'bind') and shows_objects(config.data)):
        return f'{said}; check which axis points up (--up), and try another --threshold, or --cell for a scene'
    logits = dense_grid(bind_input(model, params, config, inputs), num_points=config.mesh.resolution + 1)
    probs = 1 / (1 + np.exp(-logits))
    shares = (0.5, 0.9, 0.99, 0.999)
    quantiles = ', '.join(f'{share:.1%} below {np.quantile(probs, share):.3g}' for share in shares)
    return (
        f'{said}; its probabilities of being inside are {probs.min():.3g} to {probs.max():.3g}, {quantiles}. Check which '
        'axis points up (--up), and that the object resembles the training shapes; '
        f'--threshold={np.quantile(probs, 0.99):.3g} would make 1 % of the cube the inside'
    )


def _report(source: Source, target: Path, item: dict) -> str:
    if item['status'] == 'failed':
        return f'{source.path}: FAILED: {item["reason"]}'
    faces = f', {item["faces"]} faces' if item['faces'] else ''
    done = f'{source.path} -> {target}: {item["vertices"]} vertices{faces}'
    return ', '.join(filter(None, (done, describe(item))))


def _describe_settings(params: dict, config: ConfigDict, domain: Domain | None, finish: Finish) -> dict:
    """All that the meshes of a run, and the text about them, depend on."""
    groups = {name: config[name].to_dict() for name in ('model', 'data', 'eval', 'mesh')}
    limit = None if domain is None else domain.limit
    return {
        'weights': digest_arrays(params),
        'limit': limit,
        'seed': config.seed,
        'finish': finish._asdict(),
        **groups,
    }


def _say(text: str) -> None:
    """Print a line that may have names of files that are not UTF-8."""
    print(text.encode(errors='backslashreplace').decode(), flush=True)
