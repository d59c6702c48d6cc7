"""A part while it grows: rows and failures come in, footer and bytes go out."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import BadImage
from pipeline.labels.labeller import Labelled
from pipeline.labels.statistics import LEVELS
from pipeline.output.footer import Failure, PartFooter, part_bytes
from pipeline.output.parts import PART_BYTES, add_digests, row_digest
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, EncodedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOptions:
    """What all parts of a run have in common. max_encoded_bytes: of an image that counts for the size of a part."""

    fingerprint: str
    classes: tuple[str, ...]
    part_images: int
    confidence_map: bool
    max_encoded_bytes: int


class Draft:
    """Of one span, from index `first`, which lies at `start`."""

    def __init__(self, options: PartOptions, versions: dict[str, str], span: Span, first: int, start: Cursor) -> None:
        self._options, self._versions, self._span, self._first = options, versions, span, first
        classes = len(options.classes)
        self._rows: list[dict[str, object]] = []
        self._failures: list[Failure] = []
        self._histograms = np.zeros((classes, LEVELS), np.int64)
        self._images_by_class = np.zeros(classes, np.int64)
        self._pixels_by_class = np.zeros(classes, np.int64)
        self._pixels = self._digest = self.bytes = 0
        self._after = start
        self._ended = self._broken = False
        self.inferred = 0

    @property
    def full(self) -> bool:
        """Must the part end here?"""
        if self._span.source.kind == "image":
            return False
        return self._ended or self._count() >= self._options.part_images or self.bytes >= PART_BYTES

    @property
    def limit(self) -> int:
        """The index behind the last row that this part may hold; single images form parts of plan rows."""
        limit = self._first + self._options.part_images
        return limit if self._span.stop is None else min(limit, self._span.stop)

    def _count(self) -> int:
        return len(self._rows) + len(self._failures)

    def _take(self, image: EncodedImage) -> None:
        self._after = image.after
        size = image.bytes_length or 0
        self.bytes += size if size <= self._options.max_encoded_bytes else 0
        self._ended = image.ends_part or image.truncated
        self._broken = image.truncated

    def add(self, image: EncodedImage, labelled: Labelled) -> None:
        """Add the row of an image that is labelled."""
        statistics = labelled.statistics
        self._take(image)
        self._histograms += statistics.histogram
        self._images_by_class += statistics.pixels > 0
        self._pixels_by_class += statistics.pixels
        self._pixels += statistics.mask.size
        self._digest += row_digest(image.shard, image.index, statistics.mask)
        place = {"member": image.member, "offset": image.offset, "length": image.length}
        key = {"image_id": image.image_id, "shard": image.shard, "index": image.index}
        self._rows.append(key | place | labelled.columns)

    def fail(self, image: EncodedImage, error: BadImage) -> None:
        """Add the row of an image that cannot be labelled."""
        self._take(image)
        self._failures.append(
            Failure(image.image_id, image.shard, image.index, error.stage, error.kind, error.message, image.bytes_length)
        )

    def finish(self, *, exhausted: bool) -> tuple[PartFooter, bytes]:
        """The footer and the bytes of the part; `exhausted`: the reader has nothing behind it."""
        source = self._span.source
        rows, last, after = self._count(), exhausted and self._after.index != self._span.stop, self._after
        if source.kind == "image":  # rows of the plan file, those that a later plan file replaces too
            rows, last, after = self.limit - self._first, self._span.ends and self.limit == self._span.stop, Cursor(self.limit)
        footer = PartFooter(
            fingerprint=self._options.fingerprint,
            source={"uri": source.uri, "size": source.size, "version": source.version},
            first=self._first, rows=rows, last=last, masks=len(self._rows), broken=self._broken,
            failures=tuple(self._failures), histograms=self._histograms,
            images_by_class=tuple(self._images_by_class.tolist()), pixels_by_class=tuple(self._pixels_by_class.tolist()),
            pixels=self._pixels, digest=add_digests([self._digest]), after=after, versions=self._versions,
            part_images=self._options.part_images,
        )  # fmt: skip
        return footer, part_bytes(self._rows, footer, confidence_map=self._options.confidence_map)
