"""Pillow's antialiased bilinear resize, equal to the bit and faster, also for pixels that are not upright yet.

As in Pillow 13 (libImaging/Resample.c): a triangle filter as wide as the scale, weights of 22 bits, one axis after the other,
rounded to 8 bits in between. A photograph that is not upright is resized as it is stored, and turned when it is small: the
horizontal axis of the upright image may be the vertical axis of the stored one. A mirrored axis is computed backwards, with the
same weights: equal to the bit on 6,000 random axes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.compiled import jit

_BITS = 22
# EXIF orientations that mirror an axis of the stored image. From 5 on, its axes are swapped too.
_MIRROR_X = (2, 3, 7, 8)
_MIRROR_Y = (3, 4, 6, 7)


@dataclass(frozen=True, slots=True)
class _Taps:
    """The inputs of each of M positions of a new axis.

    first: int64 (M,), the first input. count: int64 (M,), number of inputs. weights: int32 (M, largest count), 22 bits.
    """

    first: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int32]


def resample(
    pixels_HW: npt.NDArray[np.uint32], width: int, height: int, *, turn: int = 1, used: tuple[float, float] | None = None
) -> npt.NDArray[np.uint8]:
    """Stored pixels, uint32 (H, W), each of bytes R, G, B and any fourth, C-contiguous -> upright uint8 (height, width, 3).

    turn: EXIF orientation (1 to 8) of the stored pixels.
    used: (width, height) of the photograph in the stored pixels, from the left and the top; by default all pixels.
    """
    rows, columns = pixels_HW.shape
    sideways = turn >= 5
    x_size, y_size = (height, width) if sideways else (width, height)
    used_x, used_y = used or (columns, rows)
    x = _taps(columns, used_x, x_size, mirrored=turn in _MIRROR_X)
    y = _taps(rows, used_y, y_size, mirrored=turn in _MIRROR_Y)
    out = np.empty((y_size, x_size * 3), np.uint8)
    upright_rows, upright_columns = (columns, rows) if sideways else (rows, columns)
    if _vertical_first(upright_rows, upright_columns, height, width) != sideways:
        between = np.empty((y_size, columns * 4), np.uint8)
        _resample_y(pixels_HW.view(np.uint8), y.first, y.count, y.weights, between)
        _resample_x(between.view(np.uint32), x.first, x.count, x.weights, out)
    else:
        between = np.empty((rows, x_size * 3), np.uint8)
        _resample_x(pixels_HW, x.first, x.count, x.weights, between)
        _resample_y(between, y.first, y.count, y.weights, out)
    resized = out.reshape(y_size, x_size, 3)
    return np.ascontiguousarray(resized.transpose(1, 0, 2)) if sideways else resized


def _vertical_first(rows: int, columns: int, height: int, width: int) -> bool:
    """Does Pillow 13 resize the vertical axis first (its pull request 9549)? Older versions never did.

    In tall images, the two orders differ by one level.
    """
    return height < rows and rows - height > 2 * (columns - width)


def _taps(size: int, used: float, new_size: int, *, mirrored: bool) -> _Taps:
    """Weights as from Pillow's precompute_coeffs and normalize_coeffs_8bpc: equal sums in equal order give equal bits."""
    scale = used / new_size
    reach = max(scale, 1.0)
    position = np.arange(new_size)
    centre = ((position[::-1] if mirrored else position) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + reach + 0.5).astype(np.int64), size) - first
    tap = np.arange(int(count.max()))
    distance = np.abs((tap + first[:, None] - centre[:, None] + 0.5) * (1.0 / reach))
    weights = np.where((tap < count[:, None]) & (distance < 1.0), 1.0 - distance, 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # cumsum adds from left to right, sum does not
    return _Taps(first, count, (weights * (1 << _BITS) + 0.5).astype(np.int32))


_SHIFT = np.uint64(_BITS)
_HALF = np.uint64(1 << (_BITS - 1))
_TWO_HALVES = np.uint64(_HALF | (_HALF << np.uint64(32)))
_BYTE, _TWO_BYTES = np.uint64(0xFF), np.uint64(0xFF_0000_00FF)


@jit
def _resample_x(pixels, first, count, weights, out):  # type: ignore[no-untyped-def]
    """Pixels uint32 (H, W) -> bytes uint8 (H, M * 3).

    One product serves two channels, because sums stay below 2**31. Indices are unsigned, so that numba wraps none.
    """
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for y in range(pixels.shape[0]):
        row, new = pixels[y], out[y]
        for x in range(first.shape[0]):
            red_blue, green = _TWO_HALVES, _HALF
            start, of_x = np.uint64(first[x]), weights[x]
            for tap in range(np.uint64(count[x])):
                weight, pixel = np.uint64(of_x[tap]), np.uint64(row[start + tap])
                red_blue += ((pixel | (pixel << np.uint64(16))) & _TWO_BYTES) * weight
                green += ((pixel >> np.uint64(8)) & _BYTE) * weight
            to = np.uint64(x) * three
            new[to] = (red_blue >> _SHIFT) & _BYTE
            new[to + one] = green >> _SHIFT
            new[to + two] = red_blue >> (_SHIFT + np.uint64(32))


@jit
def _resample_y(rows, first, count, weights, out):  # type: ignore[no-untyped-def]
    """Bytes uint8 (H, N) -> uint8 (M, N)."""
    width = rows.shape[1]
    sums = np.empty(width, np.int32)
    for y in range(first.shape[0]):
        sums[:] = 1 << (_BITS - 1)
        for tap in range(count[y]):
            row, weight = rows[first[y] + tap], weights[y, tap]
            for i in range(width):
                sums[i] += np.int32(row[i]) * weight
        new = out[y]
        for i in range(width):
            new[i] = sums[i] >> _BITS
