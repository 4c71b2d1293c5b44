"""The glossary: axes, coordinate frames, units, words and batch keys, the same everywhere in this package.

Axes (the top of a file names those that it uses, and any others)
    B  batch (shapes)                 T  query points of one shape        P  points of an input cloud
    N  vertices, or a set of points   M  a second set of points           F  faces, or features of a layer
    C  condition                      Z  latent code of the VAE           R  cells along an axis of a grid
    V  views                          L  frames of a clip

Frames
    object coordinates   the longest edge of the bounding box is 1 and its centre 0, y up. Occupancy is sampled in the padded
                         cube [-0.55, 0.55]^3 (padding 0.1), which only `geometry/grid.py` knows in numbers
    user's frame         that of a file: user = loc + scale * object
    camera               x right, y down, z forward; pixels are continuous (`geometry/cameras.py`)

Units
    points      object coordinates, unless a docstring says "user's frame"
    occ         {0, 1}: 1 inside the solid
    logits      log-odds of being inside; probabilities are sigmoid(logits)
    threshold   a probability at every interface; it becomes a logit once, in `geometry/extract.py`
    chamfer_l1  reported in the paper's unit, 1/10 of the longest edge (ten times the raw distance)
    names       carry their unit: num_steps, eval_every_steps, seconds_per_mesh; batch_size is the global batch

Words
    the paper           Mescheder et al., Occupancy Networks, CVPR 2019, unless another paper is named
    official            of the PyTorch code that the authors published; the official name of a network is that in its configs
    variables, params   all flax collections of a network, {'params': ..., 'batch_stats': ...}. The interface of training
                        (`models/method.py`) calls them variables, of which 'params' is optimised; the public functions of a
                        model call the same tree `params`
    condition, cond     what the encoder makes of the input: a code [B, C], or feature maps {name: [B, R, ..., C]}
    field               (data) what a config asks for by name, as 'cloud' or 'volume_points' (`data/field_table.py`)
                        (geometry) a callable, points [T, 3] -> values [T]
    column              one array of a stored shape, or sequence of shapes (`data/schema.py`)
    sequence, clip      a shape that moves, as stored; L consecutive frames of it, in coordinates of the first (`data/clips.py`)

Batch
    inputs   {name: [B, ...]}  what the network sees, by field      row    [B]  position in the global batch: every row draws
    targets  {name: [B, ...]}  the ground truth, by field                       from its own key, fold_in(key, row)
    mask     [B]  False for rows that only pad the last evaluation batch

Randomness
    Keys come first: f(key, ...). Batch number `step` is a pure function of (seed, step).
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Array = TypeVar('Array', np.ndarray, 'jax.Array')  # of numpy or of JAX, the same in all places of a signature
