"""The definition of a pixel: bilinear in float32, argmax, softmax in float64. `kernel.py` gives the same bits, but faster.

Shapes and types, for C classes, h x w logits and H x W pixels:

- logits: float32 (C, h, w). top, bottom: int32 (H,), the two rows of logits between which a row of pixels lies.
  weight_y: float32 (H,), 0 to 1, the weight of the bottom row. left, right, weight_x: the same for columns, (W,).
- mask, confidence: uint8 (H, W), written. min_level: pixels of a lower confidence become 255 in the mask.
- histogram: int64 (C, 256), number of pixels by class and confidence, added to.
  extents: int64 (C, 4), first x, first y, last x and last y of each class, widened.
"""

import math

import numpy as np

from pipeline.compiled import Float32, Int32, Int64, UInt8, jit
from pipeline.labels.statistics import count_and_ignore


@jit
def plain_pixel(
    logits: Float32, top: int, bottom: int, weight_y: np.float32, left: int, right: int, weight_x: np.float32
) -> tuple[int, int]:
    """Class (on a tie, the lowest) and confidence of one pixel. Interpolates between two columns first, then between two rows."""
    one = np.float32(1)
    best, highest, total = 0, np.float32(0), 0.0
    for again in range(2):
        for c in range(logits.shape[0]):
            above = (one - weight_x) * logits[c, top, left] + weight_x * logits[c, top, right]
            below = (one - weight_x) * logits[c, bottom, left] + weight_x * logits[c, bottom, right]
            value = (one - weight_y) * above + weight_y * below
            if again:
                total += math.exp(np.float64(value) - np.float64(highest))
            elif c == 0 or value > highest:
                best, highest = c, value
    return best, int(255.0 / total + 0.5)


@jit
def plain_pixels(
    logits: Float32, top: Int32, bottom: Int32, weight_y: Float32, left: Int32, right: Int32, weight_x: Float32, min_level: int,
    mask: UInt8, confidence: UInt8, histogram: Int64, extents: Int64,
) -> None:  # fmt: skip
    """Mask, confidence and statistics of all pixels, each by `plain_pixel`."""
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            label, level = plain_pixel(logits, top[y], bottom[y], weight_y[y], left[x], right[x], weight_x[x])
            mask[y, x], confidence[y, x] = label, level
        count_and_ignore(y, 0, mask.shape[1], min_level, mask, confidence, histogram, extents)
