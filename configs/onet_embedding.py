"""Representation power (paper, section 4.1): each training shape has a learned code of 512 numbers (auto-decoding).

    onet train --config=onet_embedding --workdir=runs/embedding
    onet evaluate --workdir=runs/embedding --split=train

It is evaluated on the training shapes: can the network represent them at all? Published: IoU about 0.89 on the 4,746 chairs of
ShapeNet's training split with 6 million parameters, at any resolution. The code of an unseen shape is fitted to its labelled
points: `onet evaluate --split=test`, or for your own meshes

    onet reconstruct --workdir=runs/embedding --input=mesh.ply --output=meshes

The variant `tiny` has small networks, for two CPU cores.
"""

from ml_collections import ConfigDict

from onet_jax.configs import choose, eval_, experiment, mesh, optim, train

VARIANTS = ('', 'tiny')


def get_config(arg: str = '') -> ConfigDict:
    (tiny,) = choose('onet_embedding', arg, ('tiny',))
    return experiment(
        seed=0,
        model={
            'name': 'onet',
            'encoder': 'idx',
            'decoder': 'cbatchnorm',
            'cond_size': 128 if tiny else 512,
            'num_shapes': 640 if tiny else 800,  # of the training split
            'code_std': 0.01 if tiny else 1.0,  # of the codes before training
            'decoder_hidden_size': 64 if tiny else 256,
            'latent_size': 0,  # of the VAE; 0 is none
            'free_bits': 0.0,  # nats of KL divergence that each latent dimension has free; 0 is off
            'leaky': False,  # leaky ReLUs in the decoder and in the encoder of the VAE
        },
        data={
            'feed': 'resident' if tiny else 'tfds',  # 'resident': all in device memory, without TensorFlow
            'inputs': ('index',),
            'targets': ('volume_points',),
            # Few points of many shapes in a batch, so that every code is updated often, even one that starts far off.
            'num_points_per_step': 64 if tiny else 1024,
            'num_near_points': 52 if tiny else 0,  # nearest to the surface; 0: as drawn
            'sampling': 'uniform',  # 'uniform', 'equal' or 'surface': how the dataset's points were drawn
            # The embedded dataset, built where no --data_dir is given.
            'families': (),  # () is all of them
            'num_shapes_per_family': 80 if tiny else 100,
            'num_points': 16_384 if tiny else 100_000,
            'num_views': 0,
            'val_fraction': 0.1,
            'test_fraction': 0.1,
            'dataset_seed': 0,
        },
        optim=optim(name='muon', learning_rate=1e-2, schedule='cosine', warmup_steps=100) if tiny else optim(),
        train=train(
            num_steps=1750, batch_size=128, log_every_steps=50, eval_every_steps=350, checkpoint_every_steps=350
        )
        if tiny
        else train(),
        eval=eval_(split='train', targets=('volume_points',) if tiny else ('volume_points', 'voxels'), threshold=0.5),
        mesh=mesh(),
    )
