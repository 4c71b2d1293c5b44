"""Unconditional generation (paper, section 4.5): a VAE of shapes, sampled from the prior N(0, 1) of its 128-d code.

    onet train --config=onet_unconditional --workdir=runs/chairs --config.data.families="('chair',)"
    onet sample --workdir=runs/chairs --output=samples

The paper trains one model for each of the classes airplane, car, chair and sofa and shows samples; it gives no figures.
The variant `tiny` has small networks and learns 400 embedded cars in about four minutes on two CPU cores
(docs/results/generation.md shows its samples).
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('onet_unconditional', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'onet',
            'encoder': 'none',
            'decoder': 'simple',
            'cond_size': 0,
            'decoder_hidden_size': 64 if tiny else 128,
            'latent_size': 32 if tiny else 128,  # of the VAE
            'free_bits': 0.25 if tiny else 0.0,  # nats of KL divergence that each latent dimension has free; 0 is off
            'leaky': False,  # leaky ReLUs in the decoder and in the encoder of the VAE
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('none',),
            'targets': ('volume_points',),
            'num_points_per_step': 1536 if tiny else 2048,
            'num_near_points': 768 if tiny else 0,  # nearest to the surface; 0: as drawn
            'sampling': 'uniform',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': ('car',) if tiny else (),  # () is all of them
            'num_shapes_per_family': 400 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 0,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=5e-3, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(num_steps=2500, batch_size=8, log_every_steps=50, eval_every_steps=500, checkpoint_every_steps=350)
        if tiny
        else train(),
        eval=eval_(
            targets=('volume_points',) if tiny else ('volume_points', 'voxels'),
            threshold=0.4 if tiny else 0.2,
            sample=True,
            select_by='loss',
        ),
        mesh=mesh(),
    )
