"""Decoding and cropping: any image file to a square uint8 array, exactly as ADM crops it."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

TURNS = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_ASPECT = 1000  # beyond, one file would be scaled to gigabytes
MAX_PIXELS = 178_956_970  # where Pillow suspects a decompression bomb; 0.5 GB in RGB
# No others, whatever a file is called: for PostScript Pillow would start a program.
FORMATS = frozenset({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000"})


def decode_image(data: bytes) -> Image.Image:
    """Decodes an image file to RGB: upright by its EXIF tag, transparency over white.

    Of 16 bits a channel the upper 8 are kept. Floating-point pixels are an error.

    Raises:
        Exception: whatever Pillow raises on no image, or a broken, truncated or oversized one.
    """
    try:
        image = _upright(Image.open(io.BytesIO(data), formats=_formats()))
    except UnidentifiedImageError:  # Pillow's text holds an address, other in each run
        raise UnidentifiedImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"more than {MAX_PIXELS} pixels, which may be a decompression bomb: scale it down"
        ) from None
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # gray, 16-bit or wider, which Pillow would cut off at 255
        pixels = np.asarray(image).clip(0, 65535)
        is_8_bit = image.mode == "I" and pixels.max() <= 255
        image = Image.fromarray((pixels >> (0 if is_8_bit else 8)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@cache
def _formats() -> tuple[str, ...]:
    """Those of them that this Pillow knows."""
    Image.init()
    return tuple(sorted(FORMATS & Image.OPEN.keys()))


def _upright(image: Image.Image) -> Image.Image:
    """`ImageOps.exif_transpose`, which also fails on other tags that are broken, without that."""
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow makes of a broken tag
        turn = None
    return image if turn is None else image.transpose(turn)


def center_crop(image: Image.Image, resolution: int) -> np.ndarray:
    """ADM's center crop: halve while twice too large, scale the short side, cut out the middle.

    Args:
        image: RGB, any size.
        resolution: side of the result in pixels.

    Returns:
        (resolution, resolution, 3), uint8.

    Raises:
        ValueError: if the image is too narrow.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"{image.width}x{image.height} pixels are too narrow to crop")
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - resolution) // 2, (pixels.shape[1] - resolution) // 2
    return pixels[top : top + resolution, left : left + resolution]
