"""Decodes every mask and confidence map of a part, and counts the pixels again."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pipeline.errors import Damaged
from pipeline.labels.labeller import class_rows
from pipeline.labels.png import voc_palette
from pipeline.labels.statistics import IGNORE, LEVELS, mask_statistics
from pipeline.output.footer import PartFooter
from pipeline.output.parts import add_digests, row_digest
from pipeline.schema import masks_schema
from pipeline.verify.rules import Rules, require

_INDEX, _GRAY = 3, 0  # colour types of the PNG header


def check_labels(table: pa.Table, footer: PartFooter, rules: Rules) -> None:
    """Decode every mask and confidence map, one at a time, and count again. Raises `Damaged`."""
    digests: list[int] = []
    seen = np.zeros((LEVELS, LEVELS), np.int64)
    for number in range(table.num_rows):
        (row,) = table.slice(number, 1).to_pylist()
        try:
            mask, histogram = _check_row(row, rules)
        except Damaged as damage:
            raise Damaged(f"{row['shard']} #{row['index']}: {damage}") from damage
        digests.append(row_digest(row["shard"], row["index"], mask))
        seen += histogram
    require(add_digests(digests) == footer.digest, "its share of labels_digest is not that of its masks")
    if rules.confidence_map:  # for ignored pixels the class is not stored, but the confidence is
        kept, ignored = np.split(footer.histograms, [rules.min_level], axis=1)[::-1]
        same = np.array_equal(seen[: len(kept), rules.min_level :], kept) and np.array_equal(
            seen[IGNORE, : rules.min_level], ignored.sum(axis=0)
        )
        require(same, "its histograms are not those of its confidence maps")


def _check_row(row: dict[str, Any], rules: Rules) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Check a row -> the mask, uint8 (H, W), and its pixels by id and confidence, int64 (256, 256). Raises `Damaged`."""
    size, count = (row["width"], row["height"]), len(rules.classes)
    mask = _decode(row["mask"]["bytes"], size, _INDEX)
    confidence = _decode(row["confidence"]["bytes"], size, _GRAY) if rules.confidence_map else np.zeros_like(mask)
    seen = mask_statistics(mask, confidence, LEVELS, 0.0)  # each id from 0 to 255 has a row
    require(not seen.pixels[count:IGNORE].any(), "the mask holds a class that the run does not have")
    known = replace(
        seen, mask=mask, histogram=seen.histogram[:count], pixels=seen.pixels[:count],
        confidence_sums=seen.confidence_sums[:count], boxes=seen.boxes[:count],
    )  # fmt: skip
    counted, stored = class_rows(known, rules.classes), row["classes"]
    if rules.confidence_map:
        below = seen.histogram[:count, : rules.min_level].any() or seen.histogram[IGNORE, rules.min_level :].any()
        require(not below, "the mask ignores other pixels than those of low confidence")
        require(np.float32(seen.mean_confidence) == np.float32(row["mean_confidence"]), "mean_confidence is not that of its map")
    elif len(counted) == len(stored):  # without confidence maps, mean confidences cannot be counted again
        counted = [mine | {"mean_confidence": theirs["mean_confidence"]} for mine, theirs in zip(counted, stored, strict=True)]
    as_stored = pa.array([counted], masks_schema().field("classes").type).to_pylist()[0]
    require(as_stored == stored, "classes are not those of the mask")
    require(np.float32(known.ignored_fraction) == np.float32(row["ignored_fraction"]), "ignored_fraction is not that of the mask")
    return mask, seen.histogram


def _decode(data: bytes, size: tuple[int, int], colour_type: int) -> npt.NDArray[np.uint8]:
    """An 8-bit PNG of this size (width, height) and colour type -> uint8 (H, W). Raises `Damaged`."""
    what = "mask" if colour_type == _INDEX else "confidence map"
    header = data[16:24]
    is_size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    require(data[24:26] == bytes([8, colour_type]), f"the {what} is no 8-bit {'index' if colour_type == _INDEX else 'gray'} PNG")
    require(is_size == size, f"the {what} is {is_size[0]}x{is_size[1]}, its row says {size[0]}x{size[1]}")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels = np.array(image)
            palette = image.getpalette()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise Damaged(f"the {what} cannot be decoded: {type(error).__name__}") from error
    require(pixels.dtype == np.uint8 and pixels.shape == size[::-1], f"the {what} is no PNG of one channel")
    require(colour_type == _GRAY or bytes(palette or ()) == voc_palette(), "the palette of the mask is not that of PASCAL VOC")
    return pixels
