"""The glossary: what a letter, a unit or a batch key means everywhere in this package.

Axes
    B  batch (shapes)           T  query points of one shape       N  surface points or mesh vertices
    F  faces, or features       C  condition code                  Z  latent code of the VAE

The cube
    A shape lives in object coordinates: the longest edge of its bounding box is 1 and the box centre is 0. Occupancy is
    sampled in the padded cube [-0.55, 0.55]^3 (padding 0.1), which only `geometry/grid.py` knows in numbers.

Units
    points      object coordinates (1 = longest edge of the bounding box), unless a docstring says "user's frame"
    occ         {0, 1}: 1 inside the solid
    logits      log-odds of being inside; probabilities are sigmoid(logits)
    threshold   a probability at every interface; it becomes a logit once, in `geometry/extract.py`
    chamfer_l1  reported in the paper's unit, 1/10 of the longest edge (ten times the raw distance)
    names       carry their unit: num_steps, eval_every_steps, seconds_per_mesh; batch_size is the global batch

Batch keys
    points   [B, T, 3]  query points              occ     [B, T]      their occupancy
    inputs   [B, ...]   what the encoder sees      row     [B]         position in the global batch: every row of a batch
                                                                       draws from its own key, fold_in(key, row)
    mask     [B]        False for rows that only pad the last evaluation batch
    subset   [B, S]     evaluation: positions of as many query points as a training step takes, for the loss
    voxels   [B, 32, 32, 32]  evaluation: occupied voxels of the unit cube

Randomness
    Keys come first: f(key, ...). Batch number `step` is a pure function of (seed, step).
"""
