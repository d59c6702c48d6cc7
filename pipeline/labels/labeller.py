"""One photograph -> its row: decode, resize, network, label map, mask, statistics, PNG."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import InferenceFailed
from pipeline.image.decode import Photograph, decode
from pipeline.image.resize import Preset, resize
from pipeline.labels.png import encode_gray, encode_mask
from pipeline.labels.statistics import MaskStatistics
from pipeline.labels.upsample import labels_of, upsample_labels
from pipeline.model.engine import Engine

T = TypeVar("T")
FAST_DECODE_SCALE = 2  # a JPEG decoded smaller keeps at least this many times the short side that the network reads
_SHORT_OF_MEMORY = ("bad_alloc", "allocat", "out of memory", "out_of_memory")  # words of OpenVINO, oneDNN and torch


class NetworkGotNoMemory(MemoryError):
    """The network got no memory. The process should end then, because OpenVINO may have damaged its heap."""


def load_machine_code() -> None:
    """Load the functions that numba has compiled, or compile them. In a new process, this takes 0.5 s before the first image."""
    resize(Image.new("RGB", (4, 4)), 2, max_pixels=4)
    upsample_labels(np.zeros((1, 1, 1), np.float32), 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """The flags that decide labels, besides the network."""

    classes: tuple[str, ...]
    preset: Preset
    min_confidence: float = 0.0
    max_pixels: int = 4_000_000
    max_source_pixels: int = 178_956_970
    confidence_map: bool = False
    fast_decode: bool = False


@dataclass(frozen=True, slots=True)
class Resized:
    """The pixels that the network reads, uint8 (H, W, 3); upright size and EXIF orientation of the photograph."""

    pixels_HWC: npt.NDArray[np.uint8]
    width: int
    height: int
    orientation: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """A labelled photograph: mask, confidence and statistics, and the columns of its row."""

    statistics: MaskStatistics
    columns: dict[str, object]


class Labeller:
    """Labels photographs with one engine. `milliseconds` is the CPU time of the threads so far, by stage."""

    def __init__(self, engine: Engine, options: LabelOptions) -> None:
        self.engine, self.options = engine, options
        self.milliseconds: dict[str, float] = {}

    def read(self, data: bytes, name: str = "") -> Resized:
        """Decode and resize. name: the file name. Raises a `BadImage` or `MemoryError`. Safe in another thread than `label`."""
        return self.resize(self.decode(data, name))

    def decode(self, data: bytes, name: str = "") -> Photograph:
        """The photograph; smaller if `fast_decode` allows it. Raises a `BadImage`, or `MemoryError` if memory is short."""
        options = self.options
        min_side = FAST_DECODE_SCALE * options.preset.short_side if options.fast_decode else None
        return self._timed(
            "decode", lambda: decode(data, max_source_pixels=options.max_source_pixels, min_side=min_side, name=name)
        )

    def resize(self, photograph: Photograph) -> Resized:
        """Resize a decoded photograph to what the network reads. Raises `ImageTooLarge`."""
        short_side, max_pixels = self.options.preset.short_side, self.options.max_pixels
        pixels = self._timed(
            "resize",
            lambda: resize(
                photograph.stored, short_side, max_pixels=max_pixels, turn=photograph.turn, original=photograph.stored_size
            ),
        )
        return Resized(pixels, *photograph.size, photograph.orientation)

    def label(self, resized: Resized) -> Labelled:
        """From network to PNG. Raises a `BadImage` if the network fails, `MemoryError` or `NetworkGotNoMemory` without memory."""
        options = self.options
        try:
            logits = self._logits(resized)
            if not np.isfinite(logits).all():  # 15 microseconds per image; argmax would say class 0
                raise InferenceFailed("the logits of the network are not finite")
            statistics = self._timed(
                "labels", lambda: labels_of(self.engine, logits, resized.height, resized.width, options.min_confidence)
            )
        except RuntimeError as error:
            if _is_of_memory(error):
                raise MemoryError(str(error)) from error
            raise InferenceFailed(f"{type(error).__name__}: {error}") from error
        columns: dict[str, object] = {
            "width": resized.width,
            "height": resized.height,
            "orientation": resized.orientation,
            "mask": {"bytes": self._timed("encode", lambda: encode_mask(statistics.mask)), "path": None},
            "mean_confidence": statistics.mean_confidence,
            "ignored_fraction": statistics.ignored_fraction,
            "classes": class_rows(statistics, options.classes),
        }
        if options.confidence_map:
            columns["confidence"] = {"bytes": self._timed("encode", lambda: encode_gray(statistics.confidence)), "path": None}
        return Labelled(statistics, columns)

    def _logits(self, resized: Resized) -> npt.NDArray[np.float32]:
        try:
            return self._timed("network", lambda: self.engine.logits(resized.pixels_HWC))
        except (MemoryError, RuntimeError) as error:
            if _is_of_memory(error):
                raise NetworkGotNoMemory(str(error)) from error
            raise

    def _timed(self, stage: str, call: Callable[[], T]) -> T:
        started = time.thread_time()  # two threads share a core: wall time would count it twice
        try:
            return call()
        finally:
            elapsed = 1000 * (time.thread_time() - started)
            self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + elapsed


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(word in str(error) for word in _SHORT_OF_MEMORY)


def class_rows(statistics: MaskStatistics, names: tuple[str, ...]) -> list[dict[str, object]]:
    """The `classes` column: one entry per class in the mask as stored, by id."""
    area = statistics.mask.size
    rows: list[dict[str, object]] = []
    for class_id in np.flatnonzero(statistics.pixels).tolist():
        pixels = int(statistics.pixels[class_id])
        x, y, width, height = (int(value) for value in statistics.boxes[class_id])
        rows.append(
            {
                "class_id": class_id,
                "name": names[class_id],
                "pixels": pixels,
                "fraction": pixels / area,
                "mean_confidence": int(statistics.confidence_sums[class_id]) / (255 * pixels),
                "bbox": {"x": x, "y": y, "width": width, "height": height},
            }
        )
    return rows
