"""Stride-8 logits -> label map and confidence at the original size, in one bilinear step."""

import math

import numpy as np
import numpy.typing as npt

from pipeline.labels.compiled import jit


def upsample_labels(
    logits_CHW: npt.NDArray[np.float32], height: int, width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Label map (argmax, the lowest class on a tie) and confidence (`round(255 * max softmax)`), uint8 (H, W) each.

    Bilinear with half-pixel centres, as `torch.nn.functional.interpolate(align_corners=False)`, in float32
    and in the convex form `(1 - w) * a + w * b`, which never leaves the range of its corners.
    """
    _, rows, columns = logits_CHW.shape
    logits_HWC = np.ascontiguousarray(logits_CHW.transpose(1, 2, 0))
    label_map = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.uint8)
    _upsample(logits_HWC, *_taps(rows, height), *_taps(columns, width), label_map, confidence)
    return label_map, confidence


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each output position the two inputs and the weight of the second (ATen's area_pixel_compute_source_index)."""
    scale = np.float32(size) / np.float32(new_size)
    position = np.maximum(scale * (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    low = np.minimum(position.astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), np.clip(position - low.astype(np.float32), 0, 1).astype(np.float32)


@jit
def _upsample(logits, top, bottom, down, left, right, across, label_map, confidence):  # type: ignore[no-untyped-def]
    columns, classes = logits.shape[1], logits.shape[2]
    line = np.empty((columns, classes), np.float32)
    values = np.empty(classes, np.float32)
    one = np.float32(1)
    for y in range(label_map.shape[0]):
        weight = down[y]
        for x in range(columns):
            for c in range(classes):
                line[x, c] = (one - weight) * logits[top[y], x, c] + weight * logits[bottom[y], x, c]
        for x in range(label_map.shape[1]):
            low, high, weight = left[x], right[x], across[x]
            for c in range(classes):
                values[c] = (one - weight) * line[low, c] + weight * line[high, c]
            best = 0
            for c in range(1, classes):
                if values[c] > values[best]:
                    best = c
            total = np.float32(0)
            for c in range(classes):
                total += math.exp(values[c] - values[best])
            label_map[y, x] = best
            confidence[y, x] = np.uint8(np.float32(255) / total + np.float32(0.5))
