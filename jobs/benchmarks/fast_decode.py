"""What a JPEG that is decoded smaller does to labels: agreement with the default, and mIoU where the truth is known."""

from collections.abc import Iterator, Sequence
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.benchmarks.large import KINDS, Kind, enlarged
from jobs.benchmarks.photographs import named_photographs, spread
from jobs.benchmarks.report import Grid
from jobs.benchmarks.truth import confusion, mean_iou, truth_of
from pipeline.errors import UsageError
from pipeline.image.decode import decode
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.labels.prepare import prepare
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest
from pipeline.model.zoo import DEFAULT_MODEL

SCALES = (2, 1)  # times the short side of the network: what the scaled DCT has to leave
NO_LIMIT = 1 << 40
Mask = npt.NDArray[np.uint8]


def agreement(photos: Sequence[str], truth: Sequence[str], most: int, short_side: int) -> Iterator[dict[str, Any]]:
    """A row for small and for 12-megapixel photographs at each scale: share of equal label pixels; mIoU, and the default's."""
    network = prepare(NetworkRequest(model=DEFAULT_MODEL, weights="bundled", engine="openvino", short_side=short_side))
    labeller = Labeller(load_engine(network), LabelOptions(classes=network.classes, preset=network.preset))
    data, classes = spread(named_photographs(photos), most), len(network.classes)
    for kind in (None, KINDS[0]):
        equal, smaller, seen = dict.fromkeys(SCALES, 0), dict.fromkeys(SCALES, 0), 0
        pixels = {scale: np.zeros((classes, classes), np.int64) for scale in (0, *SCALES)}
        for number, (stem, photograph) in enumerate(data):
            encoded = enlarged(photograph, kind, number) if kind else photograph
            default, _ = _labelled(labeller, encoded, None)
            found = {0: default}
            for scale in SCALES:
                found[scale], reduced = _labelled(labeller, encoded, scale * short_side)
                equal[scale] += int((found[scale] == default).sum())
                smaller[scale] += reduced
            seen += default.size
            for scale, mask in found.items() if truth else ():
                pixels[scale] += confusion(_truth(stem, truth, mask), mask, classes)
        click.echo(f"labels of {len(data)} photographs {_name(kind)}: done")
        for scale in SCALES:
            yield {
                "photographs": _name(kind), "scale": scale, "images": len(data), "smaller": smaller[scale],
                "equal": equal[scale] / seen,
                "mean_iou": mean_iou(pixels[scale]) if truth else None, "default": mean_iou(pixels[0]) if truth else None,
            }  # fmt: skip


def agreement_grid(rows: Sequence[dict[str, Any]]) -> Grid:
    """The same as a table."""
    columns = (
        "labels with a scaled DCT",
        "keeps at least",
        "decoded smaller",
        "label pixels as the default's",
        "mIoU",
        "default's mIoU",
    )
    return Grid(
        columns,
        [
            (
                f"{row['images']} photographs {row['photographs']}", f"{row['scale']}x the short side", str(row["smaller"]),
                f"{100 * row['equal']:.3f} %",
                *(("-", "-") if row["default"] is None else (f"{100 * row['mean_iou']:.2f}", f"{100 * row['default']:.2f}")),
            )
            for row in rows
        ],
    )  # fmt: skip


def _labelled(labeller: Labeller, encoded: bytes, min_side: int | None) -> tuple[Mask, bool]:
    """The label map, and whether the photograph was decoded smaller."""
    photograph = decode(encoded, max_source_pixels=NO_LIMIT, min_side=min_side)
    smaller = photograph.stored.size != photograph.stored_size
    return labeller.label(labeller.resize(photograph)).statistics.mask, smaller


def _truth(stem: str, folders: Sequence[str], mask: Mask) -> Mask:
    """The ground truth at the size of the mask."""
    truth = truth_of(stem, folders)
    if truth is None:
        raise UsageError(f"--truth: no masks/{stem}.png in {', '.join(folders)}")
    return np.asarray(Image.fromarray(truth).resize(mask.shape[::-1], Image.Resampling.NEAREST))


def _name(kind: Kind | None) -> str:
    return kind.name if kind else "as they are"
