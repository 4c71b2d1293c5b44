"""Write a dataset in the official ShapeNet layout: onet export --data_dir=D --output=ROOT.

The original code reads it: points.npz, pointcloud.npz, model.binvox, img_choy2016, lists and metadata.yaml.
"""

from absl import flags

from . import run_command, tell_next

DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of the dataset.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'New or empty folder.', required=True)


def main(_):
    from onet_jax.prepare.shapenet import export_shapenet

    export_shapenet(DATA_DIR.value, OUTPUT.value)
    tell_next(f'{OUTPUT.value}: written', 'onet', 'prepare', f'--shapenet={OUTPUT.value}', '--data_dir=FOLDER')


if __name__ == '__main__':
    run_command(main)
