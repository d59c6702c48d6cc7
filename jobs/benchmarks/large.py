"""12-megapixel photographs made of small ones, as cameras write them."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

MEGAPIXELS = 12
QUALITY = 90
NOISE = 3.0  # levels: what a sensor leaves at base sensitivity; without it the JPEG would be a third of the size
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, slots=True)
class Kind:
    """How a large JPEG is written. subsampling: Pillow's 0 (4:4:4) or 2 (4:2:0). turned: stored sideways, EXIF orientation 6."""

    name: str
    subsampling: int = 2
    progressive: bool = False
    turned: bool = False


KINDS = (
    Kind("12 MP, 4:2:0"),
    Kind("12 MP, 4:2:0, EXIF orientation 6", turned=True),
    Kind("12 MP, 4:2:0, progressive", progressive=True),
    Kind("12 MP, 4:4:4", subsampling=0),
)


def enlarged(data: bytes, kind: Kind, seed: int = 0) -> bytes:
    """A small photograph at 12 megapixels and its own aspect: Lanczos, gray noise of 3 levels, JPEG of quality 90."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = (1e6 * MEGAPIXELS / (image.width * image.height)) ** 0.5
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(seed).normal(0, NOISE, (large.height, large.width, 1)).round().astype(np.int16)
    noisy = Image.fromarray((np.asarray(large) + noise).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    if kind.turned:
        noisy = noisy.transpose(Image.Transpose.ROTATE_90)
        exif[_ORIENTATION_TAG] = 6
    sink = io.BytesIO()
    noisy.save(sink, "JPEG", quality=QUALITY, subsampling=kind.subsampling, progressive=kind.progressive, exif=exif.tobytes())
    return sink.getvalue()
