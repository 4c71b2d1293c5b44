"""Networks in the viewer: what they make of inputs at any level, latent codes between samples of the prior, and textures.

Shapes are in object coordinates, as networks make them. B batch, P points of a cloud, Z latent.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.datasets import examples_of, open_dataset
from onet_jax.data.fields import (
    evaluation_key,
    find_sources,
    has_cloud,
    has_input,
    in_order,
    input_names,
    read_inputs,
    show,
    shows_objects,
)
from onet_jax.data.sources import Source
from onet_jax.data.user_inputs import read_bulk
from onet_jax.errors import InputError
from onet_jax.geometry.extract import extract_mesh, marching_cubes, threshold_to_logit
from onet_jax.geometry.meshes import normalise
from onet_jax.geometry.mise import dense_grid
from onet_jax.geometry.sequences import SEQUENCES
from onet_jax.inference.displays.quality import COLOURS, compare
from onet_jax.inference.generate import Code, interpolate, mix, moves, sample_code
from onet_jax.models.method import Method, Model
from onet_jax.models.velocity_field import move_mesh
from onet_jax.progress import working
from onet_jax.scores import as_geometry, target_of, truth_of
from onet_jax.viz.display import Choice, Display, Shown, Slider
from onet_jax.viz.pictures import Item

MAX_SHAPES = 24  # of a dataset, the first of each category, then the second, and so on
NUM_SAMPLES = 6  # of the prior that a walk visits
STEP = 0.1  # of a walk, from a sample to the next one
RESOLUTIONS, RESOLUTION = ('32', '64', '128', '256'), '64'  # cells along an axis
DENSE = 64  # up to so many cells the values of a whole grid are kept, so that another level takes no new ones


class Example(NamedTuple):
    """An input of a network, as it is shown."""

    inputs: dict[str, np.ndarray]  # without a batch axis
    key: jax.Array  # of what the network draws
    seen: Any  # the input for display, None for nothing to see
    cloud: np.ndarray | None = None  # [P, 3], what quality control measures with
    truth: Any = None


def display_network(
    method: Method,
    params: dict,
    config: ConfigDict,
    given: str | Path | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> Display:
    """What a network makes of a file, or of all in a folder; without `given` of the validation shapes of a dataset.

    Of a network without input samples of its prior, and what is between them. Raises InputError or OSError for inputs that
    cannot be read, and without inputs.
    """
    if not has_input(config.data):
        if given is not None:
            raise InputError(f'--input: expected none for a network without input, found {given}')
        return display_walk(method.model, params, config, seed)
    if given is not None:
        sources = {source.name: source for source in find_sources(config.data, given)}
        return display_examples(method, params, config, tuple(sources), lambda name: read_file(sources[name], config))
    if data_dir is None:
        raise InputError(
            f'--input: expected a file, from which {", ".join(input_names(config.data))} can be read, for this network has '
            'not been trained on a dataset of this machine; found none'
        )
    names = _choose_shapes(open_dataset(data_dir), config)
    return display_examples(method, params, config, tuple(names), partial(_read_example, data_dir, config, names))


def display_examples(
    method: Method, params: dict, config: ConfigDict, names: tuple[str, ...], read: Callable[[str], Example]
) -> Display:
    """Inputs beside what a network makes of them; read: name -> example.

    The fields of whole objects are extracted at any level and resolution, what other networks make is shown as it is.
    """
    read = lru_cache(maxsize=4)(read)
    first = read(names[0])
    has_levels = hasattr(method.model, 'bind') and 'threshold' in config.eval and shows_objects(config.data)
    has_levels &= config.model.get('decoder') != 'none'

    @lru_cache(maxsize=1)
    def bind(name: str) -> Code:
        example = read(name)
        cond = method.model.encode(params, *(array[None] for array in in_order(example.inputs)))
        return Code(cond, method.model.prior(example.key, np.arange(1)) if config.eval.get('sample') else None)

    levels = LevelSets(lambda name: method.model.bind(params, *bind(name)))

    @lru_cache(maxsize=1)
    def predict(name: str) -> Any:
        inputs = {key: array[None] for key, array in read(name).inputs.items()}
        (prediction,) = method.predict(params, inputs, read(name).key)
        return prediction if isinstance(prediction, SEQUENCES) else as_geometry(prediction)

    def make(*values: Any) -> Shown:
        asked = {control.name: value for control, value in zip(controls, values, strict=True)}
        name = asked.get('shape', names[0])
        example = read(name)
        if has_levels:
            seeds = example.inputs.get('cloud')
            mesh = levels.extract(name, asked['level'], int(asked['resolution']), seeds)
            made = _move(method.model, params, config, mesh, bind(name))
        else:
            made = predict(name)
        shapes = {'input': example.seen if example.cloud is None else example.cloud, 'reconstruction': made}
        shapes |= {} if example.truth is None else {'ground truth': example.truth}
        if not shows_objects(config.data):
            shapes = _fit(shapes)
        return compare(name, describe_mesh(made), shapes, asked.get('colours', ''))

    controls: tuple[Slider | Choice, ...] = (Choice('shape', names, names[0]),) if len(names) > 1 else ()
    controls += _level_controls(config) if has_levels else ()
    controls += (COLOURS,) if first.cloud is not None else ()
    return Display(controls, make)


def display_walk(model: Model, params: dict, config: ConfigDict, seed: int) -> Display:
    """Samples of the prior, and the latent codes on the lines between them; of shapes that move one walk for the shape, one
    for the motion. A network without latent code has learned one shape."""
    num_samples = NUM_SAMPLES if getattr(model, 'latent_size', 0) else 1
    samples = [sample_code(model, params, config, number, seed) for number in range(num_samples)]

    def code_at(place: float) -> Code:
        start = min(int(place), num_samples - 2)
        return interpolate(samples[start], samples[start + 1], round(1 / STEP) + 1)[round((place - start) / STEP)]

    @lru_cache(maxsize=1)
    def find(*places: float) -> Code:
        codes = [code_at(place) for place in places] or [samples[0]]
        return mix(*codes) if len(codes) > 1 else codes[0]

    levels = LevelSets(lambda places: model.bind(params, *find(*places)))

    def make(*values: Any) -> Shown:
        *places, level, resolution = values
        mesh = levels.extract(tuple(places), level, int(resolution))
        made = _move(model, params, config, mesh, find(*places))
        where = ', '.join(f'{name} {place:.1f}' for name, place in zip(names, places, strict=True))
        return Shown(('sample',), [Item(where or 'the shape', describe_mesh(made), (made,))])

    names = () if num_samples == 1 else ('shape', 'motion') if moves(model) else ('sample',)
    walks = tuple(Slider(name, 0, num_samples - 1, STEP, 0, plays=name != 'motion') for name in names)
    return Display((*walks, *_level_controls(config)), make)


class LevelSets:
    """Level sets of one field at a time, of which a grid of values is kept; bind: key -> field [T, 3] -> logits [T]."""

    def __init__(self, bind: Callable[[Any], Callable]):
        self._bind = lru_cache(maxsize=1)(bind)
        self._values = lru_cache(maxsize=1)(self._evaluate)

    def extract(self, key: Any, level: float, resolution: int, seeds: np.ndarray | None = None) -> trimesh.Trimesh:
        """The mesh at a level, a probability, of a grid of `resolution` cells along an axis; seeds as of `extract_mesh`."""
        with working('extracting a mesh'):
            if resolution <= DENSE:
                return marching_cubes(self._values(key, resolution), threshold_to_logit(level))
            steps = (resolution // 32).bit_length() - 1
            return extract_mesh(self._bind(key), resolution=32, upsampling_steps=steps, threshold=level, seeds=seeds)

    def _evaluate(self, key: Any, resolution: int) -> np.ndarray:
        return dense_grid(self._bind(key), num_points=resolution + 1)


def describe_mesh(made: Any) -> str:
    """The size of a mesh in words; '' for anything else."""
    if not isinstance(made, trimesh.Trimesh):
        return ''
    return f'{len(made.vertices):,} vertices, {len(made.faces):,} faces' if len(made.faces) else 'nothing is inside'


def read_file(source: Source, config: ConfigDict) -> Example:
    """An input of the user's file, in object coordinates of its own. Raises InputError or OSError that names the file."""
    inputs, frame = read_inputs(config.data, source, config.seed)
    cloud = frame.to_object(read_bulk(source, config.data)) if has_cloud(config.data) else None
    return Example(inputs, jax.random.key(config.seed), show(inputs), cloud)


def _level_controls(config: ConfigDict) -> tuple[Slider, Choice]:
    threshold = round(float(np.clip(config.eval.threshold, 0.01, 0.99)), 2)
    return Slider('level', 0.01, 0.99, 0.01, threshold), Choice('resolution', RESOLUTIONS, RESOLUTION)


def _move(model: Model, params: dict, config: ConfigDict, mesh: trimesh.Trimesh, code: Code) -> Any:
    """The mesh of time 0, moved where the network is one of shapes that move."""
    if not moves(model):
        return mesh
    return move_mesh(model, params, np.linspace(0, 1, config.data.num_frames, dtype=np.float32), mesh, *code)


def _fit(shapes: dict[str, Any]) -> dict[str, Any]:
    """A scene as an object: its cloud, its mesh and its true points, in the unit cube of the cloud."""
    if not isinstance(shapes['input'], np.ndarray) or shapes['input'].dtype == np.uint8:
        return shapes
    frame = normalise(shapes['input'])
    fitted: dict[str, Any] = {}
    for title, shape in shapes.items():
        if isinstance(shape, np.ndarray):
            fitted[title] = frame.to_object(shape)
        else:
            fitted[title] = shape.copy()
            fitted[title].vertices = frame.to_object(shape.vertices)
    return fitted


def _choose_shapes(dataset: Any, config: ConfigDict) -> dict[str, int]:
    """The names of some shapes of the validation split, and their positions."""
    by_category: dict[str, list[tuple[str, int]]] = {}
    for position, (category, name) in dataset.examples(config, config.eval.split).items():
        by_category.setdefault(category, []).append((f'{category} {name}', position))
    ranked = [(rank, *each) for some in by_category.values() for rank, each in enumerate(some)]
    return {name: position for _, name, position in sorted(ranked, key=lambda each: each[0])[:MAX_SHAPES]}


def _read_example(data_dir: str | Path, config: ConfigDict, names: Mapping[str, int], name: str) -> Example:
    """A validation shape, its input as evaluation draws it, and its ground truth."""
    dataset = open_dataset(data_dir)
    targets = dataset.scored_fields(config.data)
    ((batch, _),) = dataset.evaluation_batches(
        config, config.eval.split, targets=targets, batch_size=1, positions=[names[name]]
    )
    example = examples_of(batch, 0)
    inputs = {key: array[0] for key, array in example['inputs'].items()}
    key = jax.random.fold_in(evaluation_key(config.seed), batch['row'][0])
    cloud = inputs.get('cloud')
    return Example(inputs, key, show(inputs), cloud, truth_of(target_of(example['targets'])))
