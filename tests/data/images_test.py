import numpy as np
import pytest
from PIL import Image

from onet_jax.data.images import load_image
from onet_jax.errors import InputError


def test_a_picture_is_put_on_a_white_square(tmp_path):
    """Transparent is white, the aspect stays, and channels are RGB."""
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[:, 10:30] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    image = load_image(tmp_path / 'a.png', 40)
    assert image.shape == (40, 40, 3)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[20, 20], [1, 0, 0])
    np.testing.assert_allclose(image[20, 5], 1, err_msg='transparent')
    np.testing.assert_allclose(image[2, 20], 1, err_msg='filled')
    assert (image[:, :, 1] < 0.5).sum() == 400


def test_grey_and_palette_pictures_are_read(tmp_path):
    grey = Image.fromarray(np.full((8, 8), 51, np.uint8))
    for name, picture in (('a.jpg', grey), ('b.png', grey.convert('P')), ('c.bmp', grey)):
        picture.save(tmp_path / name)
        np.testing.assert_allclose(load_image(tmp_path / name, 8), 0.2, atol=0.01)


def test_what_is_no_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none.png: expected a picture'):
        load_image(tmp_path / 'none.png', 8)
    (tmp_path / 'a.png').write_bytes(b'not a picture')
    with pytest.raises(InputError, match=r'a.png: expected a readable picture'):
        load_image(tmp_path / 'a.png', 8)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / 'b.jpg')
    content = (tmp_path / 'b.jpg').read_bytes()
    (tmp_path / 'b.jpg').write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r'b.jpg: expected a readable picture'):
        load_image(tmp_path / 'b.jpg', 8)


def test_a_box_that_is_no_number_is_named_and_one_without_end_is_the_picture(tmp_path):
    Image.linear_gradient('L').save(tmp_path / 'a.png')
    everything = load_image(tmp_path / 'a.png', 8, (-np.inf, 0.0, np.inf, 1e300))
    np.testing.assert_array_equal(everything, load_image(tmp_path / 'a.png', 8))
    with pytest.raises(InputError, match=r'a\.png: expected a box in the picture of 256 x 256 px, found \(nan'):
        load_image(tmp_path / 'a.png', 8, (np.nan, 0.0, 8.0, 8.0))
