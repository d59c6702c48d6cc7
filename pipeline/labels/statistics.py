"""What a mask holds: pixels, confidence and boxes of its classes, in integers, so that sums merge exactly."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.labels.compiled import jit

IGNORE = 255
LEVELS = 256


@dataclass(frozen=True, slots=True)
class MaskStatistics:
    """Of one mask, C classes.

    mask: uint8 (H, W), `IGNORE` below the threshold. histogram: int64 (C, 256), every pixel by argmax class
    and confidence, before the threshold. pixels, confidence_sums: int64 (C,), of the mask as stored.
    boxes: int32 (C, 4), x y width height of the stored pixels; zeros where there are none.
    """

    mask: npt.NDArray[np.uint8]
    histogram: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    confidence_sums: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32]

    @property
    def mean_confidence(self) -> float:
        """Of every pixel before the threshold, 0 to 1."""
        total = int(self.histogram.sum())
        return int((self.histogram * np.arange(LEVELS)).sum()) / (255 * total)

    @property
    def ignored_fraction(self) -> float:
        """Of the mask, 0 to 1."""
        return 1 - int(self.pixels.sum()) / self.mask.size


def least_confidence(threshold: float) -> int:
    """The least uint8 confidence that a threshold in 0..1 keeps: ceil(255 * T)."""
    return math.ceil(255 * threshold)


def mask_statistics(
    label_map: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8], classes: int, threshold: float
) -> MaskStatistics:
    """The mask and what it holds, from label map and confidence, uint8 (H, W) each."""
    mask = np.empty_like(label_map)
    histogram = np.zeros((classes, LEVELS), np.int64)
    extents = np.empty((classes, 4), np.int32)
    least = least_confidence(threshold)
    _count(label_map, confidence, least, mask, histogram, extents)
    kept = histogram[:, least:]
    pixels = kept.sum(axis=1)
    sums = (kept * np.arange(least, LEVELS)).sum(axis=1)
    boxes = np.column_stack([extents[:, 0], extents[:, 1], extents[:, 2] - extents[:, 0] + 1, extents[:, 3] - extents[:, 1] + 1])
    boxes[pixels == 0] = 0
    return MaskStatistics(mask, histogram, pixels, sums, boxes.astype(np.int32))


@jit
def _count(label_map, confidence, least, mask, histogram, extents):  # type: ignore[no-untyped-def]
    height, width = label_map.shape
    extents[:, 0], extents[:, 1], extents[:, 2], extents[:, 3] = width, height, -1, -1
    for y in range(height):
        for x in range(width):
            label, level = label_map[y, x], confidence[y, x]
            histogram[label, level] += 1
            if level >= least:
                mask[y, x] = label
                extents[label, 0] = min(extents[label, 0], x)
                extents[label, 1] = min(extents[label, 1], y)
                extents[label, 2] = max(extents[label, 2], x)
                extents[label, 3] = max(extents[label, 3], y)
            else:
                mask[y, x] = IGNORE
