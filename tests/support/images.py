"""Nasty images as bytes, equal in every run, each with its expected outcome."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PIL import Image

from pipeline.image.decode import FORMATS

SIZE: Final = (64, 48)  # width, height of the upright scene
SEED: Final = 20261125
# Pillow refuses above 178,956,970 pixels, and warns above half of that.
BOMB_SIDE: Final = 20_000
JUST_TOO_LARGE_SIDE: Final = 13_400

_FTYP_HEIC: Final = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
_HTML: Final = b"<!DOCTYPE html>\n<html><head><title>403</title></head><body>Forbidden</body></html>\n"
# How an upright image must be stored so that a viewer that obeys the EXIF orientation shows it upright.
_TO_STORED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One image file and its expected outcome: a mask with the upright size (width, height), or a failure with this error."""

    name: str
    data: bytes
    outcome: Literal["mask", "failure"]
    size: tuple[int, int] | None
    error: str | None
    orientation: int = 1  # EXIF; 1 if there is none


def images() -> dict[str, Case]:
    """Every case by its name. No two names are equal before their first dot."""
    return {case.name: case for case in _all_cases()}


@functools.cache
def scene(seed: int = SEED) -> Image.Image:
    """Make the RGB picture of most cases: gradients, two shapes, a little noise."""
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 3, y * 4, 255 - x - y], axis=-1).astype(np.int16)
    pixels[10:30, 8:28] = (200, 40, 40)
    pixels[(x - 44) ** 2 + (y - 28) ** 2 < 150] = (40, 180, 60)
    pixels += np.random.default_rng(seed).integers(-8, 9, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image. kind: Pillow's name of the format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused_by_pillow(data: bytes) -> str | None:
    """Why plain Pillow cannot load this whole image; None if it can. This decides whether an image may have a mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.load()
        except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged data
            return f"{type(error).__name__}: {error}"
    return None


def jpeg(seed: int = SEED) -> bytes:
    """Encode a plain JPEG of 64 x 48, another for each seed."""
    return encode(scene(seed), "JPEG", quality=95, subsampling=0)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Frame one PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, color: int, idat: bytes) -> bytes:
    """Assemble a PNG from a header and compressed scanlines, without a check that they agree."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", idat), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bomb_png(side: int) -> bytes:
    """Make a valid one-bit PNG of side x side pixels, with less than a thousandth as many bytes."""
    stride = 1 + (side + 7) // 8
    deflate = zlib.compressobj(9)
    rows = bytes(stride * 500)
    parts = [deflate.compress(rows) for _ in range(side // 500)]
    parts.append(deflate.compress(bytes(stride * (side % 500))))
    return raw_png(side, side, 1, 0, b"".join(parts) + deflate.flush())


def oriented(orientation: int, kind: str) -> bytes:
    """Encode the scene turned, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = scene()
    if orientation in _TO_STORED:
        stored = stored.transpose(_TO_STORED[orientation])
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "WEBP":
        options = {"lossless": True}
    return encode(stored, kind, exif=exif.tobytes(), **options)


def rgb16_png() -> bytes:
    """Make a PNG with 16 bits per channel, which Pillow cannot write: 257 times the scene."""
    wide = (np.asarray(scene()).astype(np.uint32) * 257).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in wide)
    return raw_png(*SIZE, 16, 2, zlib.compress(rows))


def with_exif(body: bytes) -> bytes:
    """Put any bytes into the EXIF segment of a JPEG."""
    segment = b"Exif\x00\x00" + body
    plain = jpeg()
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]


def _mask(name: str, data: bytes, size: tuple[int, int] = SIZE, orientation: int = 1) -> Case:
    return Case(name, data, "mask", size, None, orientation)


def _failure(name: str, data: bytes, error: str) -> Case:
    return Case(name, data, "failure", None, error)


@functools.cache
def _all_cases() -> tuple[Case, ...]:
    return (
        *_plain(),
        *_modes(),
        *_several_frames(),
        *_metadata(),
        *_broken(),
        *_too_large(),
        *_unsupported(),
    )


def _plain() -> list[Case]:
    rgb = scene()
    return [
        _mask("rgb_jpeg.jpg", jpeg()),
        _mask("rgb_progressive.jpeg", encode(rgb, "JPEG", quality=95, progressive=True)),
        _mask("rgb_png.png", encode(rgb, "PNG")),
        _mask("rgb_webp.webp", encode(rgb, "WEBP", lossless=True)),
        _mask("rgb_bmp.bmp", encode(rgb, "BMP")),
        _mask("rgb_tiff.tiff", encode(rgb, "TIFF")),
        _mask("rgb_tiff_deflate.tif", encode(rgb, "TIFF", compression="tiff_adobe_deflate")),
        _mask("jpeg_named_png.png", jpeg()),
        _mask("one_pixel.png", encode(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), (1, 1)),
    ]


def _modes() -> list[Case]:
    rgb = scene()
    gray = rgb.convert("L")
    wide_gray = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    gray_alpha, rgba = gray.convert("LA"), rgb.convert("RGBA")
    gray_alpha.putalpha(gray.point(lambda value: 255 - value))
    rgba.putalpha(gray)
    palette = rgb.quantize(16, dither=Image.Dither.NONE)
    return [
        _mask("gray.jpg", encode(gray, "JPEG", quality=95)),
        _mask("gray_8_bit.png", encode(gray, "PNG")),
        _mask("gray_16_bit.png", encode(wide_gray, "PNG")),
        _mask("gray_16_bit_tiff.tiff", encode(wide_gray, "TIFF")),
        _mask("gray_alpha.png", encode(gray_alpha, "PNG")),
        _mask("one_bit.png", encode(gray.convert("1"), "PNG")),
        _mask("rgba.png", encode(rgba, "PNG")),
        _mask("rgb_16_bit.png", rgb16_png()),
        _mask("palette_transparent.png", encode(palette, "PNG", transparency=bytes(range(0, 256, 16)))),
        _mask("cmyk.jpg", encode(rgb.convert("CMYK"), "JPEG", quality=95)),
        _mask("cmyk_tiff.tiff", encode(rgb.convert("CMYK"), "TIFF")),
        # Without the profile that Pillow would add: the profile holds the time.
        _mask("lab.tiff", encode(rgb.convert("LAB"), "TIFF", icc_profile=None)),
    ]


def _several_frames() -> list[Case]:
    first, *others = (scene(SEED + n) for n in range(3))
    pages = [other.resize((20, 30)) for other in others]
    frames = {"save_all": True, "append_images": others}
    return [
        _mask("animated_webp.webp", encode(first, "WEBP", lossless=True, duration=50, **frames)),
        _mask("animated_png.png", encode(first, "PNG", duration=50, **frames)),
        _mask("pages.tiff", encode(first, "TIFF", save_all=True, append_images=pages)),
        # Many phones write a JPEG with a second JPEG after it.
        _mask("phone_mpo.jpg", encode(first, "MPO", quality=95, **frames)),
    ]


def _metadata() -> list[Case]:
    noise = np.random.default_rng(SEED).bytes(2_000_000)
    count_beyond_end = b"MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12"
    return [
        *(_mask(f"orientation_{n}.jpg", oriented(n, "JPEG"), orientation=n) for n in range(1, 9)),
        _mask("orientation_6_png.png", oriented(6, "PNG"), orientation=6),
        _mask("orientation_6_webp.webp", oriented(6, "WEBP"), orientation=6),
        # Pillow turns these by itself while it loads.
        _mask("orientation_6_tiff.tiff", oriented(6, "TIFF"), orientation=6),
        _mask("orientation_0.jpg", oriented(0, "JPEG")),
        _mask("orientation_9.jpg", oriented(9, "JPEG")),
        _mask("exif_noise.jpg", with_exif(noise[:500])),
        _mask("exif_cut.jpg", with_exif(count_beyond_end)),
        _mask("exif_empty.jpg", with_exif(b"")),
        _mask("exif_noise.png", encode(scene(), "PNG", exif=b"Exif\0\0" + noise[:100])),  # Pillow raises here, not in a JPEG
        _mask("exif_cut.webp", encode(scene(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0")),
        _mask("icc_noise.jpg", encode(scene(), "JPEG", quality=95, icc_profile=noise)),
    ]


def _broken() -> list[Case]:
    whole_png, whole_webp = encode(scene(), "PNG"), encode(scene(), "WEBP", lossless=True)
    corrupt = {
        "zero_bytes.jpg": b"",
        "html.jpg": _HTML,
        "cut_jpeg.jpg": jpeg()[: len(jpeg()) * 6 // 10],
        "cut_jpeg_in_header.jpg": jpeg()[:40],
        "cut_png.png": whole_png[: len(whole_png) * 6 // 10],
        "cut_webp.webp": whole_webp[: len(whole_webp) * 6 // 10],
    }
    return [_failure(name, data, "CorruptImage") for name, data in corrupt.items()]


def _too_large() -> list[Case]:
    too_large = {
        "thin_1x5000.png": encode(Image.new("L", (1, 5000), 128), "PNG"),
        "bomb.png": bomb_png(BOMB_SIDE),
        "just_too_large.png": bomb_png(JUST_TOO_LARGE_SIDE),
        "header_65535.png": raw_png(65535, 65535, 8, 2, zlib.compress(bytes(64))),
    }
    return [_failure(name, data, "ImageTooLarge") for name, data in too_large.items()]


def _unsupported() -> list[Case]:
    gray = np.asarray(scene().convert("L"))
    unsupported = {
        "float32.tiff": encode(Image.fromarray(gray.astype(np.float32) / 255), "TIFF"),
        "int32.tiff": encode(Image.fromarray(gray.astype(np.int32) * 1000), "TIFF"),
        "heic.heic": _FTYP_HEIC + bytes(64),
        "heic_named_jpg.jpg": _FTYP_HEIC + bytes(64),
        "jxl.jxl": b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(64),
        "gif_named_png.png": encode(scene(), "GIF"),
    }
    return [_failure(name, data, "UnsupportedFormat") for name, data in unsupported.items()]
