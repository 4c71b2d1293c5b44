import struct
import zlib

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


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_photo_of_a_turned_camera_is_upright(tmp_path, orientation):
    """The EXIF orientation says by which flips and turns the stored pixels become the picture: the test undoes them."""
    upright = Image.fromarray(np.zeros((8, 8), np.uint8))
    upright.paste(255, (0, 0, 4, 2))
    undo = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE',
            8: 'ROTATE_270'}  # fmt: skip
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / 'a.png', exif=exif)
    upright.save(tmp_path / 'b.png')
    np.testing.assert_array_equal(load_image(tmp_path / 'a.png', 8), load_image(tmp_path / 'b.png', 8))


def test_sixteen_bits_of_grey_keep_their_shades(tmp_path):
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / 'a.png')
    np.testing.assert_allclose(load_image(tmp_path / 'a.png', 8)[..., 0], shades / 65535, atol=1 / 255)


def png(pixels, clear):
    """A PNG of 16 bits, grey or RGB [H, W(, 3)], of which one colour is transparent."""
    kind = {2: 0, 3: 2}[pixels.ndim]
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
    header = struct.pack('>IIBBBBB', *pixels.shape[1::-1], 16, kind, 0, 0, 0)
    chunks = (
        (b'IHDR', header),
        (b'tRNS', np.array(clear, '>u2').tobytes()),
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    )
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize('shape', [(8, 8), (8, 8, 3)])
def test_the_transparent_colour_of_sixteen_bits_is_white(tmp_path, shape):
    pixels = np.full(shape, 30_000)
    pixels[:4] = 10_000
    (tmp_path / 'a.png').write_bytes(png(pixels, pixels[7, 7]))
    image = load_image(tmp_path / 'a.png', 8)
    np.testing.assert_allclose(image[:4], 10_000 / 65_535, atol=1 / 255)
    np.testing.assert_array_equal(image[4:], 1)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / 'c.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n')
    with pytest.raises(InputError, match=r'c.png: expected a readable picture'):
        load_image(tmp_path / 'c.png', 8)
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


def test_memory_is_bounded_before_a_picture_is_decoded(tmp_path):
    """Its square would take 14 GB; and a few bytes that claim a picture of 400 megapixels."""
    Image.new('L', (60_000, 60)).save(tmp_path / 'a.png')
    with pytest.raises(
        InputError, match=r'a\.png: expected at most 10000 px on a side, found 60000 x 60; make it smaller'
    ):
        load_image(tmp_path / 'a.png', 8)
    content = bytearray((tmp_path / 'a.png').read_bytes())
    content[16:24] = (20_000).to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(InputError, match=r'a\.png: expected a readable picture, found one that is .*too large'):
        load_image(tmp_path / 'a.png', 8)
