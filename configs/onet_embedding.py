"""Representation power (paper, section 4.1): each training shape is a learned code of 512 numbers, and reconstructed.

    python -m launch.train --config=configs/onet_embedding.py --workdir=runs/embedding
    python -m launch.evaluate --workdir=runs/embedding --split=train

What is trained on is what is measured: can the network represent these shapes at all? Published: IoU about 0.89 on the 4,746
chairs of ShapeNet's training split with 6 million parameters, at any resolution. The code of a shape that the network has
not seen is fitted to its labelled points: `launch.evaluate --split=test`, or for your own meshes

    python -m launch.reconstruct --workdir=runs/embedding --input=mesh.ply --output=meshes

The variant `tiny` has small networks, for two CPU cores.
"""

from ml_collections import ConfigDict

from configs import choose, onet_points

VARIANTS = ('', *onet_points.SIZES)


def get_config(variant: str = '') -> ConfigDict:
    chosen = choose('onet_embedding', variant, onet_points.SIZES)
    config = onet_points.get_config(variant).unlock()
    del config.model.encoder_hidden_size, config.data.num_input_points, config.data.noise_std
    config.model.update(encoder='idx')
    config.model.num_shapes = 640 if 'tiny' in chosen else 800  # of the training split
    config.model.code_std = 1.0  # of the codes before training
    config.data.update(input='index')
    config.eval.update(split='train', threshold=0.5)
    if 'tiny' in chosen:
        # Many shapes with few points each, so that every code is often visited, and none has to forget where it began.
        config.model.code_std = 0.01
        config.data.update(num_points_per_step=64, num_near_points=52)
        config.train.update(batch_size=128)
    else:
        config.data.update(num_points_per_step=1024)
    return config.lock()
