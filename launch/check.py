"""Validate a dataset: onet check --data_dir=D.

Reads every example and checks its columns against each other: ranges, labels against those of neighbours, surface and normals,
voxels, silhouettes and depth against cameras; of a sequence three frames, and whether their samples correspond. Prints a
table, what is unusual, and every bad example with its fault; exit code 1 where there is a bad example. --picture=F.png draws
three examples of each category as they are stored, and says at which of them up is doubtful. Of posed pictures of a scene it
says what looks wrong with cameras and pictures, and draws the cameras with the part of the scene that they see.
"""

import sys

from absl import flags

from . import run_command, tell_next

DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of the dataset.', required=True)
PICTURE = flags.DEFINE_string('picture', None, 'PNG file of a contact sheet.')


def main(_):
    from onet_jax.data.posed_views import is_scene
    from onet_jax.data.records import read_index
    from onet_jax.evaluation.tables import to_markdown
    from onet_jax.prepare.check import check_dataset, list_notes
    from onet_jax.prepare.check_scene import check_scene, draw_scene
    from onet_jax.viz.dataset import dataset_sheet
    from onet_jax.viz.pictures import check_picture

    if PICTURE.value:
        check_picture(PICTURE.value)
    if is_scene(DATA_DIR.value):
        found = check_scene(DATA_DIR.value)
        print(to_markdown(found.header, found.rows), *(f'note: {hint}' for hint in found.hints), sep='\n')
        if PICTURE.value:
            draw_scene(DATA_DIR.value, PICTURE.value)
        done = f'{DATA_DIR.value}: {len(found.hints)} notes' + (f'; {PICTURE.value} written' if PICTURE.value else '')
        return tell_next(done, 'onet', 'train', '--config=nerf', '--workdir=FOLDER', f'--data_dir={DATA_DIR.value}')
    header, rows, problems, hints = check_dataset(DATA_DIR.value)
    print(to_markdown(header, rows))
    index = read_index(DATA_DIR.value, None)
    for name, reason in index.rejected.items():
        print(f'rejected in preparation: {name}: {reason}')
    for note in (*list_notes(DATA_DIR.value), *hints):
        print(f'note: {note}')
    for name, fault in problems.items():
        print(f'bad: {name}: {fault}')
    done = f'{DATA_DIR.value}: {len(problems)} bad examples'
    if PICTURE.value:
        dataset_sheet(DATA_DIR.value, PICTURE.value)
        done += f'; {PICTURE.value} written'
    left_out = [f'--max_bad_examples={len(problems)}'] if problems else []
    config = '--config=conv_onet:tiny' if index.layout == 'shapes' else '--config=occupancy_flow'
    tell_next(done, 'onet', 'train', config, '--workdir=FOLDER', f'--data_dir={DATA_DIR.value}', *left_out)
    sys.exit(1 if problems else 0)


if __name__ == '__main__':
    run_command(main)
