"""Photograph -> what the network reads, as the preset of the checkpoint says."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pipeline.errors import ImageTooLarge
from pipeline.image.resample import resample


@dataclass(frozen=True, slots=True)
class Preset:
    """How a checkpoint wants its images; torchvision calls this its transforms.

    short_side: pixels. mean, std: of the channels R, G, B in 0..1.
    """

    short_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resized_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the short side at `short_side`, and the long side rounded down.

    As in torchvision.transforms.functional._compute_resized_output_size.
    """
    short, long = min(width, height), max(width, height)
    new_long = int(short_side * long / short)
    return (short_side, new_long) if width <= height else (new_long, short_side)


def resize(
    image: Image.Image, short_side: int, *, max_pixels: int, turn: int = 1, original: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Antialiased bilinear resize of an RGB image -> upright uint8 (H, W, 3), as torchvision's resize of the upright PIL image.

    turn: EXIF orientation (1 to 8) that the image still has.
    original: (width, height) as stored in the file, if the photograph was decoded at 1/2, 1/4 or 1/8 of it, rounded up.
    Raises `ImageTooLarge` if the result would have more than `max_pixels`.
    """
    stored = original or image.size
    upright = stored[::-1] if turn >= 5 else stored
    width, height = resized_size(*upright, short_side)
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{upright[0]}x{upright[1]} becomes {width}x{height} at short side {short_side}; --max-pixels is {max_pixels}"
        )
    reduced = round(stored[0] / image.width)
    return resample(_pixels(image), width, height, turn=turn, used=(stored[0] / reduced, stored[1] / reduced))


def _pixels(image: Image.Image) -> npt.NDArray[np.uint32]:
    """The pixels of an RGB image, uint32 (H, W), each of bytes R, G, B and a fourth.

    A view of Pillow's memory; a copy if the image lies in several blocks.
    """
    try:
        values = pa.array(image).flatten().to_numpy()
    except ValueError:  # in several blocks: larger than one, or made before `pipeline.image.decode` was imported
        values = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
    pixels: npt.NDArray[np.uint32] = values.view(np.uint32).reshape(image.height, image.width)
    return pixels
