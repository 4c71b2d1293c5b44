"""Voxel super-resolution (paper, section 4.4): a mesh from 32^3 voxels.

    python -m launch.train --config=configs/onet_voxels.py --workdir=runs/voxels

Published on ShapeNet (13 classes): IoU 0.703, Chamfer-L1 0.109 (x10), normal consistency 0.879. The variant `tiny` has
small networks and takes about eight minutes on two CPU cores (docs/results/super_resolution.md has its scores).
"""

from ml_collections import ConfigDict

from configs import choose, onet_points

VARIANTS = ('', *onet_points.SIZES)


def get_config(variant: str = '') -> ConfigDict:
    chosen = choose('onet_voxels', variant, onet_points.SIZES)
    config = onet_points.get_config(variant).unlock()
    del config.data.num_input_points, config.data.noise_std
    config.model.update(encoder='voxel_simple', encoder_hidden_size=8 if 'tiny' in chosen else 32)
    config.data.update(input='voxels')
    if 'tiny' in chosen:
        config.train.update(num_steps=1500, eval_every_steps=250)
    else:
        config.model.update(cond_size=256)
        config.data.update(num_points_per_step=1024)
    return config.lock()
