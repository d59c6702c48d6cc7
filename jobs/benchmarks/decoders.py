"""Ways from an encoded photograph to what the network reads, each in two timed steps."""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.image.decode import Photograph, decode
from pipeline.image.resize import resize, resized_size

Pixels = npt.NDArray[np.uint8]
BASE = "Pillow"
NO_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class Decoder:
    """decode: encoded bytes -> whatever `resize` takes; resize: that -> upright uint8 (H, W, 3)."""

    name: str
    decode: Callable[[bytes], Any]
    resize: Callable[[Any], Pixels]

    def timed(self, data: bytes) -> tuple[float, float, Pixels]:
        """Milliseconds of both steps, and the pixels."""
        started = time.perf_counter()
        decoded = self.decode(data)
        between = time.perf_counter()
        pixels = self.resize(decoded)
        return 1000 * (between - started), 1000 * (time.perf_counter() - between), pixels


def decoders(short_side: int) -> list[Decoder]:
    """Those that can run here; the first is what all are compared with, the second is what `segment` does."""
    found = [
        Decoder(BASE, _pillow, lambda image: _pillow_resize(image, short_side)),
        Decoder("maskfleet", _ours(None), lambda photograph: _our_resize(photograph, short_side)),
        Decoder("Pillow, turned when small", _ours(None), lambda photograph: _turned_when_small(photograph, short_side)),
    ]
    for scale in (2, 1):
        least = scale * short_side
        name = f"maskfleet, scaled DCT to {scale}x"
        found.append(Decoder(name, _ours(least), lambda photograph: _our_resize(photograph, short_side)))
    found.append(Decoder("Pillow, reducing_gap 2", _pillow, lambda image: _pillow_resize(image, short_side, reducing_gap=2.0)))
    with suppress(ImportError):  # left out of the table, and the notes say so
        found += _simplejpeg(short_side)
    return found + _torchvision(short_side)


def _pillow(data: bytes) -> Image.Image:
    """Turned at full size, in the memory that Pillow takes by default: as `segment` first did it."""
    Image.core.set_block_size(16 << 20)  # type: ignore[attr-defined]
    Image.core.set_blocks_max(0)  # type: ignore[attr-defined]
    try:
        return decode(data, max_source_pixels=NO_LIMIT).image
    finally:
        Image.core.set_block_size(128 << 20)  # type: ignore[attr-defined]
        Image.core.set_blocks_max(1)  # type: ignore[attr-defined]


def _pillow_resize(image: Image.Image, short_side: int, reducing_gap: float | None = None) -> Pixels:
    size = resized_size(*image.size, short_side)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=reducing_gap))


def _turned_when_small(photograph: Photograph, short_side: int) -> Pixels:
    small = photograph.stored.resize(resized_size(*photograph.stored_size, short_side), Image.Resampling.BILINEAR)
    return np.asarray(replace(photograph, stored=small).image)


def _ours(min_side: int | None) -> Callable[[bytes], Photograph]:
    return lambda data: decode(data, max_source_pixels=NO_LIMIT, min_side=min_side)


def _our_resize(photograph: Photograph, short_side: int) -> Pixels:
    return resize(photograph.stored, short_side, max_pixels=NO_LIMIT, turn=photograph.turn, original=photograph.stored_size)


def _simplejpeg(short_side: int) -> list[Decoder]:
    """libjpeg-turbo without Pillow; Pillow still reads the header, for size and orientation."""
    import simplejpeg

    from pipeline.image.resample import resample

    def read(data: bytes) -> tuple[npt.NDArray[np.uint32], int]:
        orientation = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
        return simplejpeg.decode_jpeg(data, "RGBX").view(np.uint32)[..., 0], orientation

    def small(read: tuple[npt.NDArray[np.uint32], int]) -> Pixels:
        pixels, turn = read
        rows, columns = pixels.shape
        upright = (rows, columns) if turn >= 5 else (columns, rows)
        return resample(pixels, *resized_size(*upright, short_side), turn=turn)

    return [Decoder("simplejpeg, maskfleet's resize", read, small)]


def _torchvision(short_side: int) -> list[Decoder]:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as F

    torch.set_num_threads(1)

    def read(data: bytes) -> Any:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)

    def small(image: Any) -> Pixels:
        pixels: Pixels = F.resize(image, [short_side], antialias=True).permute(1, 2, 0).contiguous().numpy()
        return pixels

    return [Decoder("torchvision v2", read, small)]
