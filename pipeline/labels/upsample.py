"""Logits of the network -> mask, confidence and statistics, at the original size, in one bilinear step and one pass."""

import numpy as np
import numpy.typing as npt

from pipeline.labels.kernel import LARGEST, fast_pixels
from pipeline.labels.reference import plain_pixels
from pipeline.labels.statistics import LEVELS, MaskStatistics, mask_statistics, min_confidence_level, no_extents, statistics_of
from pipeline.model.engine import Engine


def labels_of(
    engine: Engine, logits_CHW: npt.NDArray[np.float32], height: int, width: int, threshold: float = 0.0
) -> MaskStatistics:
    """An engine's logits (C, h, w) -> labels at height x width, by our machine code, or by the framework of the engine."""
    if not engine.own_labels:
        return upsample_labels(logits_CHW, height, width, threshold)
    from pipeline.model.torch_engine import label_map_of

    mask, confidence = label_map_of(logits_CHW, height, width)
    return mask_statistics(mask, confidence, len(logits_CHW), threshold)


def upsample_labels(
    logits_CHW: npt.NDArray[np.float32], height: int, width: int, threshold: float = 0.0, *, plain: bool = False
) -> MaskStatistics:
    """Mask, confidence and statistics at height x width; pixels below `threshold` (0..1) are 255 in the mask.

    Bilinear with half-pixel centres, as `torch.nn.functional.interpolate(align_corners=False)`, in the convex form
    `(1 - w) * a + w * b`, whose value always lies between a and b. The class is the argmax; on a tie, the lowest class.
    plain: compute every pixel as it is defined, with equal results, but several times slower.
    """
    classes, rows, columns = logits_CHW.shape
    mask = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.uint8)
    histogram = np.zeros((classes, LEVELS), np.int64)
    extents = no_extents(classes, height, width)
    min_level = min_confidence_level(threshold)
    pixels = fast_pixels if not plain and np.abs(logits_CHW).max() < LARGEST else plain_pixels  # NaN is not smaller either
    logits = np.ascontiguousarray(logits_CHW)
    pixels(logits, *_taps(rows, height), *_taps(columns, width), min_level, mask, confidence, histogram, extents)
    return statistics_of(mask, confidence, histogram, extents, min_level)


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The two inputs of each output position, and the weight of the second (ATen's area_pixel_compute_source_index)."""
    scale = np.float32(size) / np.float32(new_size)
    position = np.maximum(scale * (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    low = np.minimum(position.astype(np.int32), size - 1)
    return low, np.minimum(low + 1, size - 1), np.clip(position - low.astype(np.float32), 0, 1).astype(np.float32)
