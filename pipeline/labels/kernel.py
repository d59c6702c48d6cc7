"""All pixels of a photograph, equal to the bit to what `plain_pixel` defines, in a fraction of the time.

- A stretch of a row is computed class by class, so that the compiler makes vector instructions of the loops.
- exp is a polynomial in float32, and the error of a sum of exps is bounded. If this error could round a confidence either way,
  `plain_pixel` computes the confidence.
- Between four neighbouring logits, a bilinear function stays in the range of its corners. `sum(exp(logit - best))` is convex
  along rows and along columns. If all four corners have one class, by more than rounding could change, and the sum leaves a
  confidence of 255 at each corner, then all pixels between the corners have this class and a confidence of 255.
- A class that is far below the best at all corners of a stretch is left out. The error includes the most that it could add.

Shapes and types, for C classes, h x w logits and H x W pixels:

- logits: float32 (C, h, w). top, bottom: int32 (H,), the two rows of logits between which a row of pixels lies.
  weight_y: float32 (H,), 0 to 1, the weight of the bottom row. left, right, weight_x: the same for columns, (W,).
- mask, confidence: uint8 (H, W), written. min_level: pixels of a lower confidence become 255 in the mask.
- histogram: int64 (C, 256), number of pixels by class and confidence, added to.
  extents: int64 (C, 4), first x, first y, last x and last y of each class, widened.

Inside this file: t, b: two neighbouring rows of logits. clear: int32 (h, w), the class that leads by more than the margin, or
-1. others: float32 (h, w), sum of exp(logit - best) of the other classes. above, below: float32 (C, W), rows t and b at full
width. cells: int32, columns at which `left` changes, and W. full: int32, for each cell its only class, or -1. near: int32,
classes that may matter in a stretch. values: float32 (C, stretch). highest, labels: float32 and int32 (2, stretch), two rows
that are used in turn.
"""

import numpy as np

from pipeline.compiled import Float32, Int32, Int64, UInt8, bits_of_float, float_of_bits, jit
from pipeline.labels.reference import plain_pixel
from pipeline.labels.statistics import count_and_ignore

LARGEST = np.float32(1000)  # the margins below hold for logits within +-1000
_MARGIN = np.float32(2e-3)  # more than rounding can change between two interpolations: 10 * 2**-24 * 1000 = 6e-4
_SATURATED = np.float32(0.00196)  # if the other classes sum to less than 0.5 / 254.5 = 0.0019646, the confidence is 255
_FAR = np.float32(16)  # a class so far below the best adds less than exp(-16)
_FAR_ADDS = np.float32(1.2e-7)
_ERROR, _ERROR_A_CLASS = np.float32(2e-6), np.float32(1e-7)  # relative errors: of exp, and of adding one class in float32
_STRETCH = 512  # pixels; their logits for 21 classes fit into the second-level cache
_LOG2_E = np.float32(1.4426950408889634)
_ROUND = np.float32(1.5 * 2**23)  # a float32 below 2**22 plus this has the nearest integer in its low bits
_P0, _P1, _P2, _P3, _P4, _P5 = (  # 2**-x in -0.5..0.5, by least squares of the relative error, which is 8e-8
    np.float32(p) for p in (1.00000007, -0.69314695, 0.24022122, -0.05550743, 0.00967546, -0.0013267)
)  # fmt: skip


@jit
def fast_pixels(
    logits: Float32, top: Int32, bottom: Int32, weight_y: Float32, left: Int32, right: Int32, weight_x: Float32, min_level: int,
    mask: UInt8, confidence: UInt8, histogram: Int64, extents: Int64,
) -> None:  # fmt: skip
    """Mask, confidence and statistics as from `plain_pixels`, for finite logits within `LARGEST`."""
    classes, rows, columns = logits.shape
    width = mask.shape[1]
    clear, others = np.empty((rows, columns), np.int32), np.empty((rows, columns), np.float32)
    _see_nodes(logits, clear, others)
    above, below = np.empty((classes, width), np.float32), np.empty((classes, width), np.float32)
    values, highest = np.empty((classes, _STRETCH), np.float32), np.empty((2, _STRETCH), np.float32)
    near, labels = np.empty(classes, np.int32), np.empty((2, _STRETCH), np.int32)
    bands, cells = _starts(top), _starts(left)
    full = np.empty(len(cells) - 1, np.int32)
    widened = -1  # the row of logits that `below` holds
    for band in range(len(bands) - 1):
        y0, y1 = bands[band], bands[band + 1]
        t, b = top[y0], bottom[y0]
        if widened == t:
            above, below = below, above
        else:
            _widen(logits, t, left, right, weight_x, above)
        _widen(logits, b, left, right, weight_x, below)
        widened = b
        _find_full(clear, others, t, b, left, right, cells, full)
        first = 0
        while first < len(full):
            last = first + 1
            while last < len(full) and full[last] == full[first]:
                last += 1
            x0, x1 = cells[first], cells[last]
            if full[first] >= 0:
                mask[y0:y1, x0:x1] = full[first]
                confidence[y0:y1, x0:x1] = 255
            else:
                for x in range(x0, x1, _STRETCH):
                    end = min(x1, x + _STRETCH)
                    count = _find_near(logits, t, b, left[x], right[end - 1], near)
                    error = 255 * (_ERROR + np.float32(classes) * _ERROR_A_CLASS + np.float32(classes - count) * _FAR_ADDS)
                    for y in range(y0, y1):
                        now = _label_stretch(above, below, x, end, weight_y[y], near[:count], values, highest, labels)
                        if _store(labels[now], highest[now], error, mask[y, x:end], confidence[y, x:end]):
                            _settle(
                                highest[now], error, logits, t, b, weight_y[y], left, right, weight_x, x, confidence[y, x:end]
                            )
            first = last
        for y in range(y0, y1):
            count_and_ignore(y, 0, width, min_level, mask, confidence, histogram, extents)


@jit
def _starts(low: Int32) -> Int32:
    """The positions at which cells begin, because the first of the two inputs changes; and the end of the last cell."""
    starts = np.empty(len(low) + 1, np.int32)
    count = 0
    for x in range(len(low)):
        if x == 0 or low[x] != low[x - 1]:
            starts[count] = x
            count += 1
    starts[count] = len(low)
    return starts[: count + 1]


@jit
def _exp_of_minus(x: np.float32) -> np.float32:
    """exp(-x) of a float32 x >= 0; relative error 2e-7 for x up to 1, and 1e-6 for x up to 16."""
    turns = min(x * _LOG2_E, np.float32(126))
    shifted = turns + _ROUND
    f = turns - (shifted - _ROUND)
    power: np.float32 = float_of_bits((np.int32(127) - (bits_of_float(shifted) & np.int32(0x1FF))) << np.int32(23))
    return power * (_P0 + f * (_P1 + f * (_P2 + f * (_P3 + f * (_P4 + f * _P5)))))


@jit
def _see_nodes(logits: Float32, clear: Int32, others: Float32) -> None:
    """For each logit position, write its class if it leads by more than the margin, else -1; and the sum of exp of the others."""
    classes, rows, columns = logits.shape
    best, highest = np.empty(columns, np.int32), np.empty(columns, np.float32)
    second, total = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for row in range(rows):
        best[:], highest[:], second[:], total[:] = 0, -LARGEST, -LARGEST - _MARGIN, 0
        for c in range(classes):
            for x in range(columns):
                value = logits[c, row, x]
                second[x] = max(second[x], min(value, highest[x]))
                best[x] = c if value > highest[x] else best[x]
                highest[x] = max(value, highest[x])
        for c in range(classes):
            for x in range(columns):
                total[x] += _exp_of_minus(highest[x] - logits[c, row, x])
        for x in range(columns):
            clear[row, x] = best[x] if classes == 1 or highest[x] - second[x] > _MARGIN else -1
            others[row, x] = total[x] - np.float32(1)


@jit
def _find_full(clear: Int32, others: Float32, t: int, b: int, left: Int32, right: Int32, cells: Int32, full: Int32) -> None:
    """For each cell between two rows of logits, write the class that all its pixels have with a confidence of 255, or -1."""
    for cell in range(len(full)):
        l, r = left[cells[cell]], right[cells[cell]]  # noqa: E741
        label = clear[t, l]
        same = label == clear[t, r] and label == clear[b, l] and label == clear[b, r]
        rest = max(others[t, l], others[t, r], others[b, l], others[b, r])
        full[cell] = label if same and rest < _SATURATED else -1


@jit
def _find_near(logits: Float32, t: int, b: int, first: int, last: int, near: Int32) -> int:
    """Write the ids of the classes that are not far below the best between two columns into `near` -> how many there are."""
    floor = LARGEST
    for x in range(first, max(first + 1, last)):
        right = min(x + 1, last)
        sure = -LARGEST
        for c in range(logits.shape[0]):
            sure = max(sure, min(logits[c, t, x], logits[c, t, right], logits[c, b, x], logits[c, b, right]))
        floor = min(floor, sure)
    count = 0
    for c in range(logits.shape[0]):
        for x in range(first, last + 1):
            if max(logits[c, t, x], logits[c, b, x]) >= floor - _FAR:
                near[count] = c
                count += 1
                break
    return count


@jit
def _widen(logits: Float32, row: int, left: Int32, right: Int32, weight_x: Float32, wide: Float32) -> None:
    """Write one row of logits at the original width into `wide`, (C, width)."""
    one = np.float32(1)
    for c in range(logits.shape[0]):
        line, out = logits[c, row], wide[c]
        for x in range(len(out)):
            out[x] = (one - weight_x[x]) * line[left[x]] + weight_x[x] * line[right[x]]


@jit
def _label_stretch(
    above: Float32, below: Float32, x0: int, x1: int, weight_y: np.float32, near: Int32, values: Float32, highest: Float32,
    labels: Int32,
) -> int:  # fmt: skip
    """Classes, and `255 / sum(exp) + 0.5`, of some pixels of a row -> in which row of `labels` and `highest` these are, 0 or 1.

    The two rows of each are used in turn: an update in place, only if a value is larger, would become a slow masked store.
    """
    up = np.float32(1) - weight_y
    size = x1 - x0
    for x in range(size):
        highest[0, x], labels[0, x] = -LARGEST - _MARGIN, 0
    before, after, label_before, label_after = highest[0], highest[1], labels[0], labels[1]
    for i in range(len(near)):
        c = near[i]
        a, b, value = above[c, x0:x1], below[c, x0:x1], values[i]
        for x in range(size):
            v, m = up * a[x] + weight_y * b[x], before[x]
            value[x] = v
            after[x] = v if v > m else m  # noqa: FURB136 - max() checks for NaN, which is slower
        for x in range(size):
            v, m, label = value[x], before[x], label_before[x]
            label_after[x] = c if v > m else label
        before, after = after, before
        label_before, label_after = label_after, label_before
    lead, total = before, after
    for x in range(size):
        total[x] = 0
    for i in range(len(near)):
        value = values[i]
        for x in range(size):
            total[x] += _exp_of_minus(lead[x] - value[x])
    for x in range(size):
        lead[x] = np.float32(255) / total[x] + np.float32(0.5)
    return len(near) % 2


@jit
def _store(labels: Int32, rounded: Float32, error: np.float32, mask: UInt8, confidence: UInt8) -> bool:
    """Write a stretch of a row -> could the error round any of its confidences either way?"""
    sure, doubts = np.float32(1) - error, 0
    for x in range(len(mask)):
        level = np.int32(rounded[x])
        beyond = rounded[x] - np.float32(level)
        mask[x], confidence[x] = labels[x], level
        doubts += int(beyond < error) + int(beyond > sure)
    return doubts > 0


@jit
def _settle(
    rounded: Float32, error: np.float32, logits: Float32, t: int, b: int, weight_y: np.float32, left: Int32, right: Int32,
    weight_x: Float32, x0: int, confidence: UInt8,
) -> None:  # fmt: skip
    """Compute with `plain_pixel` the confidences that the error could round either way."""
    sure = np.float32(1) - error
    for x in range(len(confidence)):
        beyond = rounded[x] - np.float32(np.int32(rounded[x]))
        if beyond < error or beyond > sure:
            _, confidence[x] = plain_pixel(logits, t, b, weight_y, left[x0 + x], right[x0 + x], weight_x[x0 + x])
