"""What a pixel is: bilinear in float32, argmax, softmax in float64. Everything else gives the same bits, sooner."""

import math

import numpy as np

from pipeline.compiled import jit
from pipeline.labels.statistics import see_run


@jit
def plain_pixel(logits, top, bottom, weight_y, left, right, weight_x):  # type: ignore[no-untyped-def]
    """Class, the lowest on a tie, and confidence of one pixel: between two columns first, then between two rows."""
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
def plain_pixels(logits, top, bottom, weight_y, left, right, weight_x, min_level, mask, confidence, histogram, extents):  # type: ignore[no-untyped-def]
    """Every pixel as it is defined."""
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            label, level = plain_pixel(logits, top[y], bottom[y], weight_y[y], left[x], right[x], weight_x[x])
            mask[y, x], confidence[y, x] = label, level
        see_run(y, 0, mask.shape[1], min_level, mask, confidence, histogram, extents)
