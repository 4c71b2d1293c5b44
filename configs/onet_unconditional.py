"""Unconditional generation (paper, section 4.5): a VAE of shapes, sampled from the prior N(0, 1) of its 128-d code.

    python -m launch.train --config=configs/onet_unconditional.py --workdir=runs/chairs --config.data.families="('chair',)"
    python -m launch.sample --workdir=runs/chairs --output=samples

The paper trains one model for each of the classes airplane, car, chair and sofa and shows samples; it gives no figures.
The variant `tiny` has small networks and learns 400 embedded cars in about four minutes on two CPU cores
(docs/results/generation.md shows its samples).
"""

from ml_collections import ConfigDict

from configs import choose, onet_points

VARIANTS = ('', *onet_points.SIZES)


def get_config(variant: str = '') -> ConfigDict:
    chosen = choose('onet_unconditional', variant, onet_points.SIZES)
    config = onet_points.get_config(variant).unlock()
    del config.model.encoder_hidden_size, config.data.num_input_points, config.data.noise_std
    config.model.update(encoder='none', cond_size=0, decoder='simple')
    config.data.update(input='none')
    config.eval.update(sample=True, select_by='loss')
    if 'tiny' in chosen:
        config.model.update(latent_size=32, free_nats=0.25)
        config.data.update(families=('car',), num_shapes_per_family=400, num_points_per_step=1536, num_near_points=768)
        config.optim.learning_rate = 5e-3
        config.train.update(num_steps=2500, batch_size=8, eval_every_steps=500)
    else:
        config.model.update(latent_size=128, decoder_hidden_size=128)
    return config.lock()
