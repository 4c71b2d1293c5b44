"""NeRF (Mildenhall et al., ECCV 2020): one scene from posed pictures, as a radiance field.

    onet train --config=nerf --data_dir=nerf_synthetic/lego --workdir=runs/lego
    onet evaluate --workdir=runs/lego

--data_dir is a folder of posed pictures: transforms_train.json (Blender), poses_bounds.npy (LLFF), a COLMAP model, or a scene
of DeepVoxels. Without it an embedded scene is rendered. Published, means of the test views, PSNR in dB:

    variant     scenes                     PSNR    SSIM    LPIPS
    (blender)   8 synthetic, 800 px        31.01   0.947   0.081
    llff        8 forward-facing, /4       26.50   0.811   0.250
    deepvoxels  4 synthetic, 512 px        40.15   0.991   0.023

In the original code a scene may stay white or black for ever. Here densities are softplus, gradients are clipped, and the
first rays are of the middle of the pictures. The variant `paper` has none of that: ReLU, the Adam of Keras, rays through the
corners of pixels. `deepvoxels` has the settings of those scenes. `tiny` has small networks and pictures of 100 px, for two CPU
cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

SCENES = ('llff', 'deepvoxels')
VARIANTS = ('', *SCENES, 'paper', 'paper,llff', 'paper,deepvoxels', 'tiny', 'tiny,llff')


def get_config(arg: str = '') -> ConfigDict:
    tiny, paper, scene = choose('nerf', arg, ('tiny',), ('paper',), SCENES)
    llff = scene == 'llff'
    background = 'black' if llff else 'white'
    precrop_steps = 0 if paper or llff else 100 if tiny else 500
    return experiment(
        seed=0,
        model={
            'name': 'nerf',
            'width': 64 if tiny else 256,  # features of a layer
            'depth': 4 if tiny else 8,  # layers before density and colour
            'skips': (1,) if tiny else (4,),  # the position is seen again after these layers
            'bottleneck_size': 64 if tiny else 256,  # features of a point that the colour sees
            'num_frequencies': 8 if tiny else 10,  # of the positional encoding
            'num_direction_frequencies': 2 if tiny else 4,
            'view_directions': True,  # the colour may depend on them
            'num_samples': 32 if tiny else 64,  # of a ray
            'num_fine_samples': 32 if tiny else 128,  # more of them, where the coarse network sees something
            'two_networks': True,  # a coarse and a fine one; False: one is both
            'density': 'relu' if paper else 'softplus',  # its activation
            'noise_std': 1.0 if llff else 0.0,  # of the density before it, in training
            'background': background,  # behind what a ray meets: 'white' or 'black'
            'in_disparity': False,  # samples are even in 1 / distance
        },
        data={
            'feed': 'resident',
            'inputs': ('rays',),
            'targets': ('colours',),
            'background': background,  # behind transparent pixels
            'downscale': 4.0 if llff or tiny else 1.0,  # of the pictures: 4 has a quarter of the pixels on each side
            'one_view': not (llff or tiny),  # the rays of a step are of one picture
            'pixel_centre': 0.0 if paper else 0.5,  # of a pixel, from its left and top edge
            'precrop_steps': precrop_steps,  # rays are of the middle of the pictures first
            'precrop_fraction': 0.5,  # of each side
            'ndc': llff,  # normalised device coordinates: forward-facing scenes
            'near': 0.0,  # along the axis of the camera; 0 is what the dataset says
            'far': 0.0,
            'validate_every': 8,  # of the validation views
            # The embedded scene, rendered where no --data_dir is given.
            'view_size': 400,  # px, before `downscale`
            'num_views': 60,
            'dataset_seed': 0,
        },
        optim=optim(
            name='keras_adam' if paper else 'adam',
            learning_rate=3e-3 if tiny else 5e-4,
            schedule='cosine' if tiny else 'exponential',
            warmup_steps=20 if tiny else 0,
            decay_steps={'llff': 250_000, 'deepvoxels': 200_000}.get(scene, 500_000),
            decay_factor=0.1,
            clip_norm=0.0 if paper else 1.0,
        ),
        train=train(
            num_steps=2000, batch_size=1024, log_every_steps=50, eval_every_steps=500, checkpoint_every_steps=500
        )
        if tiny
        else train(
            num_steps=200_000 if scene else 500_000,
            batch_size=4096 if scene else 1024,
            log_every_steps=100,
            eval_every_steps=10_000,
            checkpoint_every_steps=10_000,
        ),
        eval=eval_(batch_size=1, targets=('colours',), threshold=None, sample=None, select_by='psnr'),
        mesh=mesh(resolution=64, upsampling_steps=1),
    )
