"""Statistics of a mask: pixels, confidence and boxes of each class, in integers, so that sums merge exactly."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.compiled import Int64, UInt8, jit

IGNORE = 255
LEVELS = 256


@dataclass(frozen=True, slots=True)
class MaskStatistics:
    """One mask with its statistics, for C classes.

    mask: uint8 (H, W), class ids, `IGNORE` below the threshold. confidence: uint8 (H, W), `round(255 * max softmax)`.
    histogram: int64 (C, 256), number of pixels by argmax class and confidence, before the threshold.
    pixels, confidence_sums: int64 (C,), number of pixels, and sum of their confidences, in the mask as stored.
    boxes: int32 (C, 4), x, y, width, height in pixels, in the mask as stored; zeros for a class without pixels.
    """

    mask: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    histogram: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    confidence_sums: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32]

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of all pixels, before the threshold, 0 to 1."""
        total = int(self.histogram.sum())
        return int((self.histogram * np.arange(LEVELS)).sum()) / (255 * total)

    @property
    def ignored_fraction(self) -> float:
        """Fraction of the mask's pixels that are `IGNORE`, 0 to 1."""
        return 1 - int(self.pixels.sum()) / self.mask.size


def min_confidence_level(threshold: float) -> int:
    """The lowest uint8 confidence that a threshold in 0..1 keeps: ceil(255 * threshold)."""
    return math.ceil(255 * threshold)


def mask_statistics(
    label_map: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8], classes: int, threshold: float
) -> MaskStatistics:
    """Label map and confidence, uint8 (H, W) each -> mask and statistics."""
    mask = label_map.copy()
    histogram = np.zeros((classes, LEVELS), np.int64)
    extents = no_extents(classes, *label_map.shape)
    min_level = min_confidence_level(threshold)
    _count(min_level, mask, confidence, histogram, extents)
    return statistics_of(mask, confidence, histogram, extents, min_level)


def no_extents(classes: int, height: int, width: int) -> npt.NDArray[np.int64]:
    """Extents before any pixel is seen, int64 (C, 4): first x, first y, last x and last y of each class."""
    return np.tile(np.array([width, height, -1, -1], np.int64), (classes, 1))


def statistics_of(
    mask: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8], histogram: npt.NDArray[np.int64],
    extents: npt.NDArray[np.int64], min_level: int,
) -> MaskStatistics:  # fmt: skip
    """Statistics from the histogram and the extents of a mask that keeps confidences from `min_level` on."""
    kept = histogram[:, min_level:]
    pixels = kept.sum(axis=1)
    sums = (kept * np.arange(min_level, LEVELS)).sum(axis=1)
    boxes = np.column_stack([extents[:, 0], extents[:, 1], extents[:, 2] - extents[:, 0] + 1, extents[:, 3] - extents[:, 1] + 1])
    boxes[pixels == 0] = 0
    return MaskStatistics(mask, confidence, histogram, pixels, sums, boxes.astype(np.int32))


@jit
def count_and_ignore(
    y: int, x0: int, x1: int, min_level: int, mask: UInt8, confidence: UInt8, histogram: Int64, extents: Int64
) -> None:
    """Count the pixels x0 to x1 of row y, whose labels are in `mask`; pixels below `min_level` become `IGNORE` there.

    Shapes and dtypes: as in `pipeline.labels.reference`. Adds to `histogram`, widens `extents`.
    """
    label, first = -1, x0
    for x in range(x0, x1):
        now, level = int(mask[y, x]), confidence[y, x]
        histogram[now, level] += 1
        if level < min_level:
            mask[y, x] = IGNORE
            now = -1
        if now != label:
            _extend(extents, label, y, first, x - 1)
            label, first = now, x
    _extend(extents, label, y, first, x1 - 1)


@jit
def _extend(extents: Int64, label: int, y: int, first: int, last: int) -> None:
    if label >= 0:
        extents[label, 0] = min(extents[label, 0], first)
        extents[label, 1] = min(extents[label, 1], y)
        extents[label, 2] = max(extents[label, 2], last)
        extents[label, 3] = max(extents[label, 3], y)


@jit
def _count(min_level: int, mask: UInt8, confidence: UInt8, histogram: Int64, extents: Int64) -> None:
    for y in range(mask.shape[0]):
        count_and_ignore(y, 0, mask.shape[1], min_level, mask, confidence, histogram, extents)
