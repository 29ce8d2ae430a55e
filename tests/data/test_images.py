import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from repa.data.images import center_crop, decode_image


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(image: Image.Image, file_format: str = "PNG", **options: object) -> np.ndarray:
    result = decode_image(encoded(image, file_format, **options))
    assert result.mode == "RGB"
    return np.asarray(result)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


SIZES = {
    "odd": (37, 53),
    "portrait": (30, 61),
    "landscape": (97, 41),
    "one pixel": (1, 1),
    "smaller": (5, 9),
    "equal": (16, 16),
    "one too many": (17, 16),
    "almost twice": (31, 31),
    "twice": (32, 32),
    "huge": (1025, 771),
    "narrow": (1, 900),
    "rounded down": (49, 60),  # 49 * (32 / 49) < 32 in floating point
}


@pytest.mark.parametrize("resolution", [16, 17, 32])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_any_size_becomes_a_square(size: tuple[int, int], resolution: int) -> None:
    crop = center_crop(Image.fromarray(noise(size[1], size[0])), resolution)
    assert crop.shape == (resolution, resolution, 3)
    assert crop.dtype == np.uint8


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    pixels = noise(16, 16)
    np.testing.assert_array_equal(center_crop(Image.fromarray(pixels), 16), pixels)


def test_the_middle_of_the_long_side_is_kept() -> None:
    pixels = noise(16, 40)
    np.testing.assert_array_equal(center_crop(Image.fromarray(pixels), 16), pixels[:, 12:28])
    tall = pixels.transpose(1, 0, 2).copy()
    np.testing.assert_array_equal(center_crop(Image.fromarray(tall), 16), tall[12:28])


def test_powers_of_two_are_averaged() -> None:
    pixels = noise(64, 64)
    means = pixels.reshape(16, 4, 16, 4, 3).mean((1, 3))
    crop = center_crop(Image.fromarray(pixels), 16)
    np.testing.assert_allclose(crop, means, rtol=0, atol=2)  # rounded four times


def test_an_image_too_narrow_to_crop_is_an_error_and_not_gigabytes() -> None:
    with pytest.raises(ValueError, match="too narrow"):
        center_crop(Image.new("RGB", (1, 5000)), 256)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(file_format: str) -> None:
    upright = Image.new("RGB", (16, 8), "black")
    upright.paste("white", (0, 0, 8, 8))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    pixels = decoded(stored, file_format, exif=exif)
    assert pixels.shape == (8, 16, 3)
    assert pixels[:, :7].min() > 200
    assert pixels[:, 9:].max() < 50


@pytest.mark.parametrize("orientation", range(10))
def test_all_orientations_are_pillows_own(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise(5, 7)), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(np.asarray(decode_image(data)), np.asarray(expected))


def test_16_bit_gray_and_palettes_are_rotated_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000
    expected = np.rot90(wide >> 8, -1)
    np.testing.assert_array_equal(decoded(Image.fromarray(wide), exif=exif)[..., 0], expected)
    palette = Image.fromarray(noise(4, 6)).quantize(16)
    expected = np.rot90(np.asarray(palette.convert("RGB")), -1)
    np.testing.assert_array_equal(decoded(palette, exif=exif), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "tag", [b"Exif\0\0garbage", b"garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_a_broken_exif_tag_does_not_cost_the_image(tag: bytes) -> None:
    assert decoded(Image.new("RGB", (16, 8)), "JPEG", exif=tag).shape == (8, 16, 3)


def test_of_broken_tags_the_orientation_is_still_found() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a camera", 72.0
    tags = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")  # text, not a fraction
    assert decoded(Image.new("RGB", (16, 8)), "JPEG", exif=tags).shape == (16, 8, 3)
    broken = exif.tobytes().replace(b"MM\0*", b"XX\0*")
    assert decoded(Image.new("RGB", (16, 8)), "PNG", exif=broken).shape == (8, 16, 3)


def test_gray_becomes_three_equal_channels() -> None:
    gray = noise(8, 8)[..., 0]
    np.testing.assert_array_equal(decoded(Image.fromarray(gray)), gray[..., None].repeat(3, 2))


def test_black_and_white_is_0_and_255() -> None:
    bits = Image.fromarray(noise(8, 8)[..., 0] > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decoded(bits)[..., 1], np.asarray(bits) * 255)


def test_cmyk_is_converted() -> None:
    pixels = decoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    red = pixels.reshape(-1, 3).mean(0)
    assert red[0] > 240
    assert red[1:].max() < 20


def test_transparency_shows_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (200, 100, 0, 255)
    pixels[0, 1] = (200, 100, 0, 0)
    pixels[1, 0] = (200, 100, 0, 51)  # a fifth
    result = decoded(Image.fromarray(pixels))
    assert result[0, 0].tolist() == [200, 100, 0]
    assert result[0, 1].tolist() == [255, 255, 255]
    assert result[1, 0].tolist() == [244, 224, 204]


def test_a_transparent_palette_entry_shows_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    result = decoded(image, "PNG", transparency=1)
    assert result[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert decoded(image)[0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_gray_with_alpha_shows_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 255), (10, 0)])
    assert decoded(image)[0, :, 0].tolist() == [10, 255]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_range(file_format: str) -> None:
    wide = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    pixels = decoded(Image.fromarray(wide), file_format)
    np.testing.assert_array_equal(pixels, (wide >> 8).astype(np.uint8)[..., None].repeat(3, 2))


def test_16_bit_color_keeps_its_range() -> None:
    # Pillow cannot write it: a PNG of two pixels by hand.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0, 0x8000, 0x00FF, 0x7FFF)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert np.asarray(decode_image(data)).tolist() == [[[0x12, 0xFF, 0], [0x80, 0, 0x7F]]]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("P", (4, 4), 0), Image.new("P", (4, 4), 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_truncated_file_raises(file_format: str) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), file_format)
    decode_image(data)
    for length in (len(data) // 2, len(data) // 10):
        with pytest.raises(Exception, match="."):
            decode_image(data[:length])


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 1000])
def test_no_image_raises_the_same_text_each_time(data: bytes) -> None:
    with pytest.raises(UnidentifiedImageError) as error:
        decode_image(data)
    assert str(error.value) == "not an image"


def test_floating_point_pixels_are_an_error() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).random((4, 4), dtype=np.float32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="floating-point pixels"):
        decode_image(buffer.getvalue())


def test_wide_integers_that_hold_8_bits_stay_8_bits() -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    for array, expected in ((values, values), (values * 256, values)):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "TIFF")
        decoded = np.asarray(decode_image(buffer.getvalue()))
        np.testing.assert_array_equal(decoded[..., 0], expected)
