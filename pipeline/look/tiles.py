"""A row of a run -> a tile: photograph, labels and confidence, each as large as a cell, or a line that says what is missing."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageFilter, ImageOps

from pipeline.api.photographs import Photographs
from pipeline.errors import (
    BadImage,
    Damaged,
    MaskfleetError,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    OutsideInputs,
    StorageError,
    StorageRefused,
)
from pipeline.image.decode import decode
from pipeline.labels.png import voc_palette
from pipeline.labels.statistics import IGNORE

CELL = (288, 192)  # most width and height of a photograph on the sheet, in pixels
OPACITY = 0.65  # of the colour of a class over the gray photograph
SCALE = 3  # label maps are painted 3 times as large, then made smaller: borders become smooth
GRAY_LOW, GRAY_SHARE = 105, 0.5  # the photograph behind the labels is pale, so that dark colours of the palette show
_STRIPE = 4 * SCALE  # width of a stripe in pixels of the painted map
_LEAST_SHARE = 0.03  # a class with a smaller fraction of the image gets no name on the picture
NO_PHOTOGRAPH = 225  # the gray behind the labels if there is no photograph
# Ten points of matplotlib's viridis (CC0), from no confidence to full confidence.
_VIRIDIS = (
    (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121), (109, 205, 89),
    (180, 222, 44), (253, 231, 37),
)  # fmt: skip
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (OutsideInputs, "The photograph is not read: no input of this run names it."),
    (ObjectMissing, "The photograph is gone."),
    (ObjectDenied, "The store denies the photograph."),
    (ObjectChanged, "The photograph has changed since it was labelled."),
    (BadImage, "The photograph cannot be decoded."),
    (MemoryError, "The photograph does not fit into memory."),
    (StorageRefused, "The store of the photograph refuses this user."),
    (StorageError, "The store of the photograph does not answer."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """A class of a tile. share: fraction of the image. place: (x, y) for its name on the labels; None: the class is too small."""

    class_id: int
    name: str
    share: float
    confidence: float | None
    place: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What the sheet shows of one row.

    size: (width, height) of the original photograph. photograph, labels, confidence: RGB, all of one size that fits into `CELL`.
    classes: without background, the largest first. note: why there is no photograph. detail: the error itself.
    """

    image_id: str
    shard: str
    index: int
    size: tuple[int, int]
    mean_confidence: float | None
    ignored: float
    classes: tuple[Class, ...]
    photograph: Image.Image | None
    labels: Image.Image
    confidence: Image.Image | None
    note: str = ""
    detail: str = ""


class Reader:
    """Reads photographs. A store that did not answer is not asked again: its retries would take minutes per photograph."""

    def __init__(self, photographs: Photographs) -> None:
        self._photographs = photographs
        self._silent: dict[str, StorageError] = {}

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The encoded photograph of a row. Raises like `Photographs.read`."""
        scheme, _, rest = str(row["shard"]).rpartition("://")
        host = f"{scheme}://{rest.partition('/')[0]}"
        if host in self._silent:
            raise self._silent[host]
        try:
            return self._photographs.read(row)
        except (ObjectMissing, ObjectDenied, ObjectChanged, ObjectTooLarge):
            raise
        except StorageError as error:
            if scheme:  # on a local disk, one file may fail and the next not
                self._silent[host] = error
            raise


def tile_of(row: Mapping[str, Any], reader: Reader, *, background: int | None, max_source_pixels: int) -> Tile:
    """Read the photograph of a row, and draw it with its labels.

    background: the class that is not painted. Raises `Damaged` if the mask or the confidence cannot be read.
    """
    size = (row["width"], row["height"])
    mask, confidence = (
        None if cell is None else _index_image(cell["bytes"], size, row, max_source_pixels)
        for cell in (row["mask"], row.get("confidence"))
    )
    if mask is None:
        raise Damaged(f"the mask of {row['image_id']} is null")
    cell = fit(size)
    photograph, note, detail = _photograph(row, reader, cell, max_source_pixels)
    label_map = np.asarray(mask.resize((SCALE * cell[0], SCALE * cell[1]), Image.Resampling.NEAREST))
    try:
        classes = _classes(row["classes"] or (), label_map, background)
    except TypeError as error:
        raise Damaged(f"the classes of {row['image_id']} hold a null") from error
    return Tile(
        image_id=row["image_id"] or "", shard=row["shard"], index=row["index"], size=size,
        mean_confidence=row["mean_confidence"], ignored=row["ignored_fraction"] or 0.0,
        classes=classes, photograph=photograph,
        labels=paint(label_map, photograph, background), confidence=None if confidence is None else heat(confidence, cell),
        note=note, detail=detail,
    )  # fmt: skip


def fit(size: tuple[int, int]) -> tuple[int, int]:
    """The largest size with these proportions that fits into a cell, (width, height), at least 1 x 1."""
    scale = min(limit / side for limit, side in zip(CELL, size, strict=True))
    width, height = (max(1, min(limit, round(side * scale))) for limit, side in zip(CELL, size, strict=True))
    return width, height


def paint(label_map_HW: npt.NDArray[np.uint8], photograph: Image.Image | None, background: int | None) -> Image.Image:
    """Labels in the colours of PASCAL VOC over a pale gray photograph, with white borders: RGB.

    label_map_HW: `SCALE` times as large as the result. Pixels of the ignore index (255) get stripes.
    """
    height, width = label_map_HW.shape
    gray_HW = np.full((height, width), NO_PHOTOGRAPH, np.float32)
    if photograph is not None:
        large = photograph.convert("L").resize((width, height), Image.Resampling.BILINEAR)
        gray_HW = GRAY_LOW + GRAY_SHARE * np.asarray(large, np.float32)
    is_clear = np.zeros((height, width), np.bool_) if background is None else label_map_HW == background
    weight_HW1 = np.where(is_clear, 0.0, OPACITY)[..., None]
    painted_HWC = gray_HW[..., None] * (1 - weight_HW1) + palette()[label_map_HW] * weight_HW1
    stripes = np.add.outer(np.arange(height), np.arange(width)) % (2 * _STRIPE) < _STRIPE
    painted_HWC[_borders(label_map_HW) | (stripes & (label_map_HW == IGNORE))] = 255
    return Image.fromarray(painted_HWC.round().astype(np.uint8)).resize((width // SCALE, height // SCALE), Image.Resampling.BOX)


def heat(confidence: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A confidence map (uint8) in the colours of `heat_colours`, one scale for all images: RGB of this size (width, height)."""
    small = np.asarray(confidence.resize(size, Image.Resampling.BOX, reducing_gap=2.0))
    return Image.fromarray(heat_colours()[small])


def heat_colours() -> npt.NDArray[np.uint8]:
    """The colour of each confidence, uint8 (256, 3): from violet (0) over green to yellow (255)."""
    points = np.array(_VIRIDIS, np.float64)
    levels, knots = np.arange(256), np.linspace(0, 255, len(points))
    return np.stack([np.interp(levels, knots, channel) for channel in points.T], axis=1).round().astype(np.uint8)


def palette() -> npt.NDArray[np.uint8]:
    """The colours of PASCAL VOC by class id, uint8 (256, 3)."""
    return np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)


def _borders(label_map_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Pixels next to another label, to the left, right, above or below: bool (H, W)."""
    is_border = np.zeros(label_map_HW.shape, np.bool_)
    across, down = label_map_HW[:, 1:] != label_map_HW[:, :-1], label_map_HW[1:] != label_map_HW[:-1]
    is_border[:, 1:] |= across
    is_border[:, :-1] |= across
    is_border[1:] |= down
    is_border[:-1] |= down
    return is_border


def _index_image(data: bytes, size: tuple[int, int], row: Mapping[str, Any], max_source_pixels: int) -> Image.Image:
    """A mask or confidence map as an 8-bit image. Its size is checked before its pixels are unpacked. Raises `Damaged`."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.size != size or size[0] * size[1] > max_source_pixels or image.mode not in ("P", "L"):
            raise Damaged(f"a mask or confidence map of {row['image_id']} has not the size of its photograph")
        return Image.fromarray(np.asarray(image))
    except (OSError, SyntaxError, ValueError, TypeError) as error:  # Pillow raises these for a damaged PNG
        raise Damaged(f"a mask or confidence map of {row['image_id']} cannot be decoded ({error})") from error


def _photograph(
    row: Mapping[str, Any], reader: Reader, cell: tuple[int, int], max_source_pixels: int
) -> tuple[Image.Image | None, str, str]:
    """The photograph at the size `cell`, or None; then the reason in short and in full, "" if there is none."""
    try:
        # A large JPEG is decoded at an eighth of its size or more, and never smaller than the cell.
        found = decode(reader.read(row), max_source_pixels=max_source_pixels, min_side=2 * max(CELL))
        if found.size != (row["width"], row["height"]):
            raise ObjectChanged(f"{found.size[0]} x {found.size[1]} pixels now: {row['shard']}")
        return found.image.resize(cell, Image.Resampling.LANCZOS, reducing_gap=3.0), "", ""
    except (MaskfleetError, BadImage, MemoryError, IndexError, OSError, ValueError, pa.ArrowException) as error:
        words = next((words for kind, words in _REASONS if isinstance(error, kind)), "The photograph cannot be read.")
        return None, words, str(error) or type(error).__name__


def _classes(entries: Any, label_map_HW: npt.NDArray[np.uint8], background: int | None) -> tuple[Class, ...]:
    """The classes of a tile, the largest first. Raises `TypeError` for a null, which no maskfleet writes."""
    shown = [entry for entry in entries if entry["class_id"] not in (background, IGNORE)]
    return tuple(
        Class(
            class_id=entry["class_id"], name=entry["name"], share=entry["fraction"], confidence=entry["mean_confidence"],
            place=_inside(label_map_HW == entry["class_id"]),
        )
        for entry in sorted(shown, key=lambda entry: (-entry["pixels"], entry["class_id"]))
    )  # fmt: skip


def _inside(is_class_HW: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """The point (x, y) of the tile that lies deepest in a class; None if the class is too small for a name."""
    if is_class_HW.mean() < _LEAST_SHARE:
        return None
    small = Image.fromarray(is_class_HW[::SCALE, ::SCALE].astype(np.uint8) * 255)
    radius = min(CELL) // 5
    padded = ImageOps.expand(small, 3 * radius)  # 0 outside the picture: else a class at the edge would be deepest there
    blurred = padded.filter(ImageFilter.GaussianBlur(radius)).crop((3 * radius, 3 * radius, *np.add(small.size, 3 * radius)))
    depth_HW = np.asarray(blurred) * (np.asarray(small) > 0)
    y, x = np.unravel_index(int(depth_HW.argmax()), depth_HW.shape)
    return int(x), int(y)
