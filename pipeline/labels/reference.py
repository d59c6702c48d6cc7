"""What a pixel is: bilinear in float32, argmax, softmax in float64. Everything else gives the same bits, sooner."""

import math

import numpy as np

from pipeline.compiled import jit
from pipeline.labels.statistics import see_run


@jit
def plain_pixel(logits, top, bottom, down, left, right, across):  # type: ignore[no-untyped-def]
    """Class, the lowest on a tie, and confidence of one pixel: between two columns first, then between two rows."""
    one = np.float32(1)
    best, most, total = 0, np.float32(0), 0.0
    for again in range(2):
        for c in range(logits.shape[0]):
            above = (one - across) * logits[c, top, left] + across * logits[c, top, right]
            below = (one - across) * logits[c, bottom, left] + across * logits[c, bottom, right]
            value = (one - down) * above + down * below
            if again:
                total += math.exp(np.float64(value) - np.float64(most))
            elif c == 0 or value > most:
                best, most = c, value
    return best, int(255.0 / total + 0.5)


@jit
def plain_pixels(logits, top, bottom, down, left, right, across, least, mask, confidence, histogram, extents):  # type: ignore[no-untyped-def]
    """Every pixel as it is defined."""
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            label, level = plain_pixel(logits, top[y], bottom[y], down[y], left[x], right[x], across[x])
            mask[y, x], confidence[y, x] = label, level
        see_run(y, 0, mask.shape[1], least, mask, confidence, histogram, extents)
