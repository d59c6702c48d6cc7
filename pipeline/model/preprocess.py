"""Photograph -> what the network reads, as the checkpoint's own preset says."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import ImageTooLarge


@dataclass(frozen=True, slots=True)
class Preset:
    """What torchvision calls the transforms of a checkpoint.

    short_side: pixels. mean, std: of RGB in 0..1.
    """

    short_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def resized_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the short side at `short_side`, the long one rounded down.

    As torchvision.transforms.functional._compute_resized_output_size.
    """
    short, long = min(width, height), max(width, height)
    new_long = int(short_side * long / short)
    return (short_side, new_long) if width <= height else (new_long, short_side)


def resize(image: Image.Image, short_side: int, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Antialiased bilinear resize of an RGB image -> uint8 (H, W, 3), as torchvision's resize of a PIL image.

    Raises `ImageTooLarge` where the result would have more than `max_pixels`.
    """
    width, height = resized_size(*image.size, short_side)
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{image.width}x{image.height} becomes {width}x{height} at short side {short_side}; --max-pixels is {max_pixels}"
        )
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
