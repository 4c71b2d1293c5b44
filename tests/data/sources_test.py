import tarfile

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from onet_jax.data.images import load_image
from onet_jax.data.sources import Source, find_files, find_photos
from onet_jax.errors import InputError

CAR = 'Car 0.00 0 1.55 10.5 20.0 110.5 70.25 1.5 1.6 3.9 1.0 1.7 20.0 1.6'


def save(path, size=(200, 100)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)
    return path


def test_a_flat_folder_of_pictures(tmp_path):
    for name in ('b.JPG', 'a.png', 'c.jpeg'):
        save(tmp_path / name)
    (tmp_path / 'draft_final.txt').write_text('no list, for there is no folder draft_final')
    assert find_photos(tmp_path) == [Source(p[0], tmp_path / p) for p in ('a.png', 'b.JPG', 'c.jpeg')]
    assert find_photos(tmp_path / 'a.png') == [Source('a', tmp_path / 'a.png')]


def test_crops_of_kitti(tmp_path):
    save(tmp_path / 'image_2/000008.png')
    crops = [save(tmp_path / f'cropped_images/{name}') for name in ('1/000008_000.png', '2/000008_000.jpg')]
    (tmp_path / 'label_2').mkdir()
    assert find_photos(tmp_path) == [Source('1/000008_000', crops[0]), Source('2/000008_000', crops[1])]


@pytest.fixture
def labels(tmp_path):
    """Where the labels of a picture of 200 x 100 px belong."""
    save(tmp_path / 'image_2/000008.png')
    (tmp_path / 'label_2').mkdir()
    return tmp_path / 'label_2/000008.txt'


def test_labelled_objects_of_kitti(labels, tmp_path, capsys):
    van, far = CAR.replace('Car', 'Van'), CAR.replace('70.25', '44.0')
    nobody_cares = 'DontCare -1 -1 -10 1 2 30 40 -1 -1 -1 -1000 -1000 -1000 -10'
    labels.write_text('\ufeff' + '\n'.join([CAR, nobody_cares, '', far, van, f'{CAR} 0.9\n']))
    (tmp_path / 'label_2/000009.txt').write_text(CAR)
    picture, box = tmp_path / 'image_2/000008.png', (10.5, 20.0, 110.5, 70.25)
    assert find_photos(tmp_path) == [Source(f'car/000008-{line:02d}', picture, box) for line in (1, 6)]
    assert find_photos(tmp_path, types=['Van']) == [Source('van/000008-05', picture, box)]
    assert '000009.txt: expected the picture' in capsys.readouterr().out


@pytest.mark.parametrize(
    'line',
    [
        'Car',
        CAR[:-5],
        f'{CAR} 0.9 1',
        CAR.replace('110.5', '10.5'),
        CAR.replace('20.0 1', 'x 1'),
        CAR.replace('10.5', 'nan', 1),
        CAR.replace('110.5', 'inf'),
    ],
)
def test_a_damaged_label_is_named_and_left_out(labels, tmp_path, capsys, line):
    labels.write_text(f'{line}\n{CAR}\n')
    assert [photo.name for photo in find_photos(tmp_path)] == ['car/000008-02']
    said = capsys.readouterr().out
    assert f'{labels}, line 1: expected' in said
    assert f'found {line!r}' in said


def test_online_products(tmp_path, capsys):
    paths = [save(tmp_path / f'{name}') for name in ('chair_final/a.JPG', 'chair_final/deep/b.JPG', 'sofa_final/a.JPG')]
    (tmp_path / 'chair_final/notes.txt').touch()
    names = [
        '\ufeffa.JPG',
        '',
        'deep/b.JPG',
        'lost.JPG',
        '../sofa_final/a.JPG',
        '/etc/passwd',
        'a.JPG',
        'x' * 999,
        'notes.txt',
    ]
    (tmp_path / 'chair_final.txt').write_text('\r\n'.join(names))
    (tmp_path / 'sofa_final.txt').write_text('\n' * 2000 + 'a.JPG\n')
    chairs, sofas = [Source('chair/a', paths[0]), Source('chair/deep-b', paths[1])], [Source('sofa/a', paths[2])]
    assert find_photos(tmp_path) == chairs + sofas
    said = capsys.readouterr().out.splitlines()[:7]
    expected = {
        2: 'expected a picture, found a blank line',
        4: f'expected the picture {tmp_path}/chair_final/lost.JPG (jpg|jpeg|png|webp|bmp), found none',
        5: f"expected a name in {tmp_path}/chair_final, found '../sofa_final/a.JPG'",
        6: f"expected a name in {tmp_path}/chair_final, found '/etc/passwd'",
        7: 'expected each picture once, found a.JPG again',
        8: f'expected the picture {tmp_path}/chair_final/{"x" * 999} (jpg|jpeg|png|webp|bmp), found none',
        9: f'expected the picture {tmp_path}/chair_final/notes.txt (jpg|jpeg|png|webp|bmp), found none',
    }
    assert said == [f'{tmp_path}/chair_final.txt, line {line}: {fault}' for line, fault in expected.items()]
    assert find_photos(tmp_path, max_products=1) == chairs[:1] + sofas


@pytest.mark.parametrize('name', ['label_2/000008.txt', 'chair_final.txt'])
def test_lists_that_are_no_text_are_named(tmp_path, name):
    save(tmp_path / ('image_2/000008.png' if 'label' in name else 'chair_final/a.png'))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'\xff\xfe\x00')
    with pytest.raises(InputError, match=rf'{name}: expected text in UTF-8, found other bytes'):
        find_photos(tmp_path)


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ((), r'expected a file or a folder with jpg\|.* files, found none'),
        (('image_2/a.png',), r'expected Car of at least 25 px in label_2/<frame>.txt, found none'),
        (('image_2/a.png', 'cropped_images/1/a.txt'), r'expected crops in cropped_images/<instance>, found none'),
        (
            ('chair_final.txt', 'chair_final/b.txt'),
            r'expected pictures of the lists <class>_final.txt in <class>_final, found none',
        ),
    ],
)
def test_folders_without_pictures_are_named(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=message):
        find_photos(tmp_path)


def test_files_of_other_formats(tmp_path):
    (tmp_path / 'a.ply').touch()
    (tmp_path / 'b.txt').touch()
    (tmp_path / 'c.ply').mkdir()
    assert [source.name for source in find_files(tmp_path, ('ply',))] == ['a']


def test_a_box_is_cut_out_and_padded(tmp_path):
    pixels = np.full((100, 200, 3), 255, np.uint8)
    pixels[20:70, 10:110] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    image = load_image(tmp_path / 'a.png', 100, (10.0, 20.0, 110.0, 70.0))
    red = (image[..., 1] < 0.5).nonzero()
    assert (red[0].min(), red[0].max(), red[1].min(), red[1].max()) == (25, 74, 0, 99)
    whole = load_image(tmp_path / 'a.png', 200, (-50.0, -50.0, 1000.0, 1000.0))
    np.testing.assert_array_equal(whole, load_image(tmp_path / 'a.png', 200))
    with pytest.raises(InputError, match=r'a\.png: expected a box in the picture of 200 x 100 px, found \(300'):
        load_image(tmp_path / 'a.png', 100, (300.0, 0.0, 400.0, 50.0))


def test_real_photos_of_a_street(tmp_path):
    archive = SHARED / 'data/scans/kitti.tar.xz'
    if not archive.exists():
        pytest.skip(f'no {archive}')
    with tarfile.open(archive) as files:
        files.extraction_filter = getattr(tarfile, 'data_filter', None)  # an argument from Python 3.11.4 on
        files.extractall(tmp_path)
    (photo,) = find_photos(tmp_path / 'kitti', types=['Pedestrian'])
    assert photo.name == 'pedestrian/000000-01'
    assert photo.box == (712.40, 143.00, 810.73, 307.92)
    image = load_image(photo.path, 224, photo.box)
    assert image[:, :40].min() == image[:, -40:].min() == 1, 'taller than wide'
    assert 0 < image[:, 60:-60].mean() < 0.9
