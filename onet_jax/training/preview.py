"""Pictures during training: reconstructions of the same few validation shapes by the current weights."""

from collections.abc import Callable, Collection
from pathlib import Path

import jax
from ml_collections import ConfigDict

from onet_jax.data.datasets import Shapes, examples_of
from onet_jax.data.fields import evaluation_key, has_input, held_out, show
from onet_jax.evaluation.report import COLUMN_TITLES
from onet_jax.models.method import Method
from onet_jax.scores import PicturesTarget, headline, score, target_of, truth_of
from onet_jax.viz.dataset import find_originals
from onet_jax.viz.display import Shown
from onet_jax.viz.pictures import Item, contact_sheet, render

NUM_SHOWN = 4  # the first shape of so many categories
SIZE = 160  # px of one picture


def make_preview(
    method: Method, config: ConfigDict, dataset: Shapes, left_out: Collection[tuple[str, str]] = ()
) -> Callable[[dict, Path], Shown]:
    """draw(variables, path): writes a PNG of the shapes with input, reconstruction and ground truth side by side; returns them.

    The predictions are those that `evaluate` scores. The column of inputs is missing where they cannot be shown, and that of
    the ground truth too for a model without input. The ground truth is the original mesh of a shape, or its surface samples
    where that is not available; of pictures it is the true ones. Shapes in `left_out` are not shown. Raises InputError for a
    split that is unknown or empty.
    """
    split = config.eval.split
    first: dict[str, int] = {}
    for position, (category, _) in dataset.examples(config, split, left_out).items():
        first.setdefault(category, position)
    positions = list(first.values())[:NUM_SHOWN]
    ((batch, names),) = dataset.evaluation_batches(
        config, split, targets=dataset.scored_fields(config.data), batch_size=len(positions), positions=positions
    )
    examples = [examples_of(batch, i) for i in range(len(names))]
    seen = [show({name: array[0] for name, array in example['inputs'].items()}) for example in examples]
    titles = tuple(
        title
        for title, there in zip(COLUMN_TITLES, (seen[0] is not None, True, has_input(config.data)), strict=True)
        if there
    )
    # Inputs and ground truth are rendered once.
    original, fixed, pairs = find_originals(dataset.index, set(names)), [], []
    for name, inputs, example in zip(names, seen, examples, strict=True):
        target = target_of(example['targets'])
        has_shape = not isinstance(target, PicturesTarget)
        truth = original(dataset.read(*name)) if original and has_shape else truth_of(target)
        pair = {COLUMN_TITLES[0]: inputs, COLUMN_TITLES[2]: truth}
        pairs.append({title: pair[title] for title in pair if title in titles})
        fixed.append({title: render(shape, size=SIZE) for title, shape in pairs[-1].items()})

    def draw(variables: dict, path: Path) -> Shown:
        # One device is enough, whatever devices the run trains on.
        variables, items, solids = jax.device_get(variables), [], []
        for i, (category, name) in enumerate(names):
            inputs, targets = examples[i].values()
            key = jax.random.fold_in(evaluation_key(config.seed), batch['row'][i])
            (prediction,) = method.predict(variables, inputs, key)
            shapes = {**fixed[i], COLUMN_TITLES[1]: prediction}
            caption = ''
            if COLUMN_TITLES[2] in titles:
                caption = headline(score(prediction, target_of(held_out(targets, inputs)), config.seed))
            items.append(Item(f'{category} {name}', caption, [shapes[title] for title in titles]))
            solids.append(items[-1]._replace(shapes=[(shapes | pairs[i])[title] for title in titles]))
        contact_sheet(items, titles, path, size=SIZE)
        return Shown(titles, solids)

    return draw
