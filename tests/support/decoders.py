"""One small sound image for each decoder of Pillow for the formats that maskfleet takes."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from tests.support.images import encode, images, jpeg, scene


def _palette() -> Image.Image:
    return scene().quantize(16, dither=Image.Dither.NONE)


def bmp_by_runs() -> bytes:
    """An 8-bit BMP with run-length encoding (RLE8), which Pillow reads but does not write."""
    rows = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in np.asarray(_palette())[::-1].tolist())
    head = bytearray(encode(_palette(), "BMP"))
    start = int.from_bytes(head[10:14], "little")
    head[30:34] = (1).to_bytes(4, "little")  # biCompression: BI_RLE8
    head[34:38] = (len(rows) + 2).to_bytes(4, "little")
    return bytes(head[:start]) + rows + b"\0\1"


@cache
def decoders() -> dict[str, bytes]:
    """The images by a name for people."""
    cases = images()
    return {
        "png": cases["rgb_png.png"].data,
        "png, gray": cases["gray_16_bit.png"].data,
        "png, palette": cases["palette_transparent.png"].data,
        "png, animated": cases["animated_png.png"].data,
        "png, one bit": cases["one_bit.png"].data,
        "png, exif": cases["orientation_6_png.png"].data,
        "jpeg": jpeg(),
        "jpeg, progressive": cases["rgb_progressive.jpeg"].data,
        "jpeg, cmyk": cases["cmyk.jpg"].data,
        "mpo": cases["phone_mpo.jpg"].data,
        "webp": encode(scene(), "WEBP", quality=80),
        "webp, lossless": cases["rgb_webp.webp"].data,
        "webp, animated": cases["animated_webp.webp"].data,
        "webp, exif": cases["orientation_6_webp.webp"].data,
        "bmp": cases["rgb_bmp.bmp"].data,
        "bmp, palette": encode(_palette(), "BMP"),
        "bmp, runs": bmp_by_runs(),
        "dib": encode(scene(), "DIB"),
        "tiff": cases["rgb_tiff.tiff"].data,
        "tiff, turned": cases["orientation_6_tiff.tiff"].data,
        "tiff, pages": cases["pages.tiff"].data,
        "tiff, 16 bit": cases["gray_16_bit_tiff.tiff"].data,
        **{
            f"tiff, {compression}": encode(scene(), "TIFF", compression=compression)
            for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd")
        },
        **{f"tiff, {kind}": encode(scene().convert("L").convert("1"), "TIFF", compression=kind) for kind in ("group3", "group4")},
    }
