"""Label maps against the ground truth: confusion, mIoU, pixel accuracy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Confusion = npt.NDArray[np.int64]


def truth_of(stem: str, folders: Sequence[str]) -> npt.NDArray[np.uint8] | None:
    """The mask `masks/<stem>.png` of the first folder that has one: class ids, 255 = void; None where there is none."""
    file = next((path for folder in folders if (path := Path(folder) / "masks" / f"{stem}.png").exists()), None)
    return None if file is None else np.asarray(Image.open(file))


def confusion(truth: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8], classes: int) -> Confusion:
    """Pixels by truth (rows) and label (columns); void pixels are left out."""
    valid = truth < classes
    pairs = truth[valid].astype(np.int64) * classes + found[valid]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def mean_iou(pixels: Confusion) -> float:
    """Mean IoU, 0 to 1, of the classes that the ground truth holds."""
    hit, truth, found = np.diag(pixels), pixels.sum(1), pixels.sum(0)
    present = truth > 0
    return float((hit[present] / (truth + found - hit)[present]).mean())


def pixel_accuracy(pixels: Confusion) -> float:
    """Share, 0 to 1, of the pixels that are not void and have the right label."""
    return float(np.trace(pixels) / pixels.sum())
