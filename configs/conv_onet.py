"""Convolutional Occupancy Networks (Peng et al., ECCV 2020): a mesh from 3,000 noisy points or from voxels.

    python -m launch.train --config=configs/conv_onet.py --workdir=runs/planes

Published on ShapeNet (13 classes), from point clouds:

    variant            IoU    Chamfer-L1 (x10)  normal consistency  F-score (1 %)
    pointconv          0.689  0.126             0.858               0.644    (a baseline: PointNet++)
    maps=xz            0.833  0.059             0.914               0.887
    maps=planes        0.884  0.044             0.938               0.942    (the default)
    maps=grid          0.870  0.048             0.937               0.933
    voxels,maps=xz     0.652  0.145             0.861               0.592
    voxels,maps=planes 0.752  0.092             0.905               0.735
    voxels,maps=grid   0.752  0.091             0.912               0.729

With `partial` clouds lack a part of the shape: up to 30 % of its extent along an axis.

Whole rooms, `rooms`, from 10,000 points (published on synthetic rooms of ShapeNet furniture; 5 classes):

    rooms,pointconv    0.523  0.165             0.811               0.790
    rooms,maps=xz      0.795  0.047             0.889               0.937
    rooms,maps=planes  0.805  0.044             0.903               0.948
    rooms,maps=grid    0.782  0.047             0.902               0.941
    rooms,grid64       0.849  0.042             0.915               0.964
    rooms,maps=all     0.816  0.044             0.905               0.952

`crops` is the network of windows that scenes of any size are made with, in the units of their files: it learns from windows of
rooms. The embedded dataset of both are procedural rooms.

The variant `tiny` has small networks for two CPU cores, of which those of planes learn the embedded dataset in eight minutes
(`points=3000`) to twelve. It sees 300 points, as `onet_points.py:tiny` does (`points=3000` and `points=300` say it otherwise),
and 10,000 of rooms.
Windows take 700 steps, eleven minutes of two free cores (docs/results/rooms.md):

    python -m launch.train --config=configs/conv_onet.py:tiny,crops --workdir=runs/crops
"""

from ml_collections import ConfigDict

from configs import choose, onet_points
from onet_jax.errors import InputError

PLANES = ('xz', 'xy', 'yz')
MAPS = {'maps=xz': PLANES[:1], 'maps=planes': PLANES, 'maps=grid': ('grid',), 'maps=all': (*PLANES, 'grid')}
INPUTS = ('points', 'voxels')
BASELINES, SCENES, GRIDS, PARTS = ('pointconv',), ('rooms', 'crops'), ('grid64',), ('partial',)
ROOMS = tuple(f'rooms_{count:02d}' for count in range(4, 9))  # families of the embedded dataset
VARIANTS = (
    '',
    *onet_points.SIZES,
    *INPUTS,
    *MAPS,
    *BASELINES,
    *SCENES,
    'tiny,pointconv',
    'rooms,grid64',
    'rooms,maps=all',
)


def get_config(variant: str = '') -> ConfigDict:
    networks = (*MAPS, *GRIDS, *BASELINES)
    chosen = choose('conv_onet', variant, onet_points.SIZES, onet_points.DENSITIES, INPUTS, networks, PARTS, SCENES)
    if 'voxels' in chosen and chosen & {*SCENES, *PARTS, *BASELINES}:
        raise InputError(f'configs/conv_onet.py: expected those from points, not voxels, found the variant {variant!r}')
    if 'crops' in chosen and chosen & set(networks):
        raise InputError(f'configs/conv_onet.py: expected crops with their own network, found the variant {variant!r}')
    tiny, baseline, rooms, crops = (word in chosen for word in ('tiny', 'pointconv', 'rooms', 'crops'))
    config = onet_points.get_config('tiny' if tiny else '').unlock()
    del config.model.latent_size, config.model.leaky
    config.model.update(name='conv_onet', cond_size=32, decoder_hidden_size=32)
    config.data.num_input_points = 300 if tiny else 3000
    config.train.batch_size = 24 if baseline else 32
    if tiny:
        config.optim.learning_rate = 5e-3
        config.train.update(num_steps=3300, batch_size=8, eval_every_steps=660, checkpoint_every_steps=660)
    if baseline:
        config.model.update(encoder='pointnet_plus_plus', decoder='simple_local_point')
        config.model.update(encoder_hidden_size=16 if tiny else 64, num_centres=(128, 32) if tiny else (512, 128))
    elif crops:
        config.model.update(encoder='pointnet_crop_local_pool', decoder='simple_local_crop', encoder_hidden_size=32)
        config.model.update(unet3d_levels=4, unet3d_size=32, unit_size=0.005, query_cells=25, sin_cos=False)
        # Resident, for then a crop is drawn from all points of its room; a streamed record has a few dozen in it.
        config.data.update(feed='resident', num_points_per_step=1024, sampling='surface')
        config.train.batch_size, config.eval.batch_size = 2, 1
    else:
        config.model.update(encoder='pointnet_local_pool', encoder_hidden_size=32, pooling='max')  # or 'mean'
        config.model.update(decoder='simple_local', interpolation='linear')  # or 'nearest'
        config.model.maps = next((MAPS[word] for word in chosen if word in MAPS), PLANES)
        config.model.update(plane_resolution=64, unet_depth=4, unet_size=32)
        config.model.update(grid_resolution=32, unet3d_levels=3, unet3d_size=32)
        if rooms and not tiny:
            config.model.update(plane_resolution=128, unet_depth=5)
        if tiny:
            config.model.update(decoder_hidden_size=128, unet_size=16)
            config.model.update(grid_resolution=32 if rooms else 16, unet3d_levels=2, unet3d_size=16)
            config.optim.learning_rate = 2e-3
            config.data.update(num_points_per_step=512, num_near_points=416)
    if not baseline:
        config.model.centred = tiny and 'voxels' not in chosen  # ours; official networks read half a cell off
    if 'grid64' in chosen:
        config.model.update(maps=('grid',), grid_resolution=64, unet3d_levels=4)
    if 'voxels' in chosen:
        del config.data.num_input_points, config.data.noise_std
        config.model.encoder = 'voxel_simple_local'
        config.data.update(input='voxels', num_points_per_step=1024)
        config.train.batch_size = 16 if tiny else 64
    if 'partial' in chosen:
        config.data.partial = True
    if rooms or crops:
        config.data.update(families=ROOMS, num_input_points=10_000)
    if rooms and not tiny and baseline:
        config.train.batch_size, config.model.decoder_hidden_size = 20, 256
    elif rooms and not tiny:
        config.train.batch_size = 6 if 'grid64' in chosen else 24 if len(config.model.maps) > 3 else 32
    if tiny and crops:
        config.model.update(unit_size=0.025, query_cells=17, unet3d_levels=2, unet3d_size=8, cond_size=16)
        config.model.encoder_hidden_size = 16
        config.data.update(num_points_per_step=256, num_near_points=0, num_shapes_per_family=40)
        config.train.update(num_steps=700, batch_size=4, log_every_steps=20)
        config.train.update(eval_every_steps=175, checkpoint_every_steps=175)
    if crops:
        config.data.crop_size = config.model.unit_size * config.model.query_cells
    for word in chosen & set(onet_points.DENSITIES):
        config.data.num_input_points = int(word.removeprefix('points='))
    if {'tiny', 'points=3000'} <= chosen:
        config.train.update(num_steps=1750, eval_every_steps=350, checkpoint_every_steps=350)
    return config.lock()
