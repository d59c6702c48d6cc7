"""The loop of the field notes: OpenVINO, Pillow, a plain numba pass over all pixels, PNG; no statistics.

What a careful engineer writes in an afternoon, kept as it was when the field notes were measured, so that the
bare loop, which is the limit that the job is measured against, has a floor of its own.
"""

import io
import math
import time

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pipeline.compiled import jit
from pipeline.image.resize import resized_size
from pipeline.labels.labeller import Resized
from pipeline.labels.png import voc_palette
from pipeline.model.engine import Engine

_COMPRESS_LEVEL = 6


class PlainLabeller:
    """Encoded photograph -> PNG of its label map; `milliseconds` adds up CPU time by stage."""

    def __init__(self, engine: Engine, short_side: int) -> None:
        self._engine, self._short_side = engine, short_side
        self.milliseconds: dict[str, float] = {}

    def read(self, data: bytes) -> Resized:
        """Pillow: decode, turn upright, resize."""
        started = time.thread_time()
        photograph = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        started = self._count("decode", started)
        size = resized_size(*photograph.size, self._short_side)
        pixels = np.asarray(photograph.resize(size, Image.Resampling.BILINEAR))
        self._count("resize", started)
        return Resized(pixels, photograph.width, photograph.height, 1)

    def label_map(self, resized: Resized) -> npt.NDArray[np.uint8]:
        """Network, and one plain pass over all pixels -> uint8 (H, W); the confidence is made too, and dropped."""
        started = time.thread_time()
        logits = self._engine.logits(resized.pixels_HWC)
        started = self._count("network", started)
        label_map, _ = plain_labels(logits, resized.height, resized.width)
        self._count("labels", started)
        return label_map

    def label(self, resized: Resized) -> bytes:
        """Network to PNG."""
        label_map = self.label_map(resized)
        started = time.thread_time()
        image, buffer = Image.fromarray(label_map, "L"), io.BytesIO()
        image.putpalette(voc_palette())
        image.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
        self._count("encode", started)
        return buffer.getvalue()

    def _count(self, stage: str, started: float) -> float:
        now = time.thread_time()
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + 1000 * (now - started)
        return now


def plain_labels(
    logits_CHW: npt.NDArray[np.float32], height: int, width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Label map and confidence, uint8 (H, W) each: bilinear, argmax and softmax of every pixel, without a shortcut."""
    _, rows, columns = logits_CHW.shape
    logits_HWC = np.ascontiguousarray(logits_CHW.transpose(1, 2, 0))
    label_map = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.uint8)
    _every_pixel(logits_HWC, *_taps(rows, height), *_taps(columns, width), label_map, confidence)
    return label_map, confidence


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each output position the two inputs and the weight of the second (half-pixel centres)."""
    scale = np.float32(size) / np.float32(new_size)
    position = np.maximum(scale * (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    low = np.minimum(position.astype(np.int64), size - 1)
    return low, np.minimum(low + 1, size - 1), np.clip(position - low.astype(np.float32), 0, 1).astype(np.float32)


@jit
def _every_pixel(logits, top, bottom, down, left, right, across, label_map, confidence):  # type: ignore[no-untyped-def]
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
