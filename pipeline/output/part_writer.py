"""Parts, from their first row to their commit: rows and failures go in, one conditional put per part comes out."""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import BadImage, ObjectMissing
from pipeline.labels.labeller import Labelled
from pipeline.labels.statistics import LEVELS
from pipeline.output.footer import Failure, PartFooter, failures_bytes, part_bytes
from pipeline.output.parts import PART_BYTES, PartName, add_digests, part_key, row_digest
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, EncodedImage
from pipeline.storage import WritableStore, join

OLD_NAMES_S = 60.0  # listing a million parts takes a second; only an older version still adds names of format 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOptions:
    """What all parts of a run have in common. max_encoded_bytes: a longer image does not count for the size of a part."""

    fingerprint: str
    classes: tuple[str, ...]
    part_images: int
    confidence_map: bool
    max_encoded_bytes: int


class Draft:
    """A part while it grows: the part of a span that begins at index `first`, which lies at `start` in the source."""

    def __init__(self, options: PartOptions, versions: dict[str, str], span: Span, first: int, start: Cursor) -> None:
        self._options, self._versions, self._span, self._first = options, versions, span, first
        classes = len(options.classes)
        self.rows: list[dict[str, object]] = []
        self.failures: list[Failure] = []
        self._histograms = np.zeros((classes, LEVELS), np.int64)
        self._images_by_class = np.zeros(classes, np.int64)
        self._pixels_by_class = np.zeros(classes, np.int64)
        self._pixels = self._digest = self.bytes = 0
        self._after = start
        self._ended = self._truncated = False
        self.inferred = 0

    @property
    def full(self) -> bool:
        """Must the part end here?"""
        if self._span.source.kind == "image":
            return False
        return self._ended or self._count() >= self._options.part_images or self.bytes >= PART_BYTES

    @property
    def limit(self) -> int:
        """The index after the last row that this part may hold. For single images the index is the row of the plan file."""
        limit = self._first + self._options.part_images
        return limit if self._span.stop is None else min(limit, self._span.stop)

    def _count(self) -> int:
        return len(self.rows) + len(self.failures)

    def _take(self, image: EncodedImage) -> None:
        self._after = image.after
        length = image.bytes_length or 0
        self.bytes += length if length <= self._options.max_encoded_bytes else 0
        self._ended = image.ends_part or image.truncated
        self._truncated = image.truncated

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
        self.rows.append(key | place | labelled.columns)

    def fail(self, image: EncodedImage, error: BadImage) -> None:
        """Add the row of an image that cannot be labelled."""
        self._take(image)
        self.failures.append(
            Failure(image.image_id, image.shard, image.index, error.stage, error.kind, error.message, image.bytes_length)
        )

    def finish(self, *, exhausted: bool) -> tuple[PartFooter, bytes]:
        """The footer and the bytes of the part. exhausted: has the reader no image left after this part?"""
        source = self._span.source
        rows, last, after = self._count(), exhausted and self._after.index != self._span.stop, self._after
        if source.kind == "image":  # the part also covers plan rows that a later plan file replaces
            rows, last, after = self.limit - self._first, self._span.ends and self.limit == self._span.stop, Cursor(self.limit)
        footer = PartFooter(
            fingerprint=self._options.fingerprint,
            source={"uri": source.uri, "size": source.size, "version": source.version},
            first=self._first, rows=rows, last=last, masks=len(self.rows), broken=self._truncated,
            failures=tuple(self.failures), histograms=self._histograms,
            images_by_class=tuple(self._images_by_class.tolist()), pixels_by_class=tuple(self._pixels_by_class.tolist()),
            pixels=self._pixels, digest=add_digests([self._digest]), after=after, versions=self._versions,
            part_images=self._options.part_images,
        )  # fmt: skip
        return footer, part_bytes(self.rows, footer, confidence_map=self._options.confidence_map)


class PartWriter:
    """Commits parts, for every job that makes parts. No other code does.

    versions: of the software that makes the parts; each footer holds them. plan_format: in runs of format 1 some parts have
    names that hold their number of rows.
    """

    def __init__(
        self, store: WritableStore, out: str, options: PartOptions, versions: dict[str, str], *, plan_format: int
    ) -> None:
        self._store, self._out, self._masks = store, out, join(out, "masks")
        self._options, self._versions, self._plan_format = options, versions, plan_format

    def committed(self, source: str, first: int) -> PartName | None:
        """The committed part that begins at this index, or None. source: digest of the source."""
        names = [part_key(source, first, self._options.part_images)]
        if self._plan_format == 1:
            names += self._store.names(join(self._masks, f"{source}-{first:010d}-"), OLD_NAMES_S)
        for name in names:
            with suppress(ObjectMissing):
                info = self._store.stat(join(self._masks, name))
                if (part := PartName.parse(name, info.size or 0, info.version or "")) is not None:
                    return part
        return None

    def begin(self, span: Span, first: int, start: Cursor) -> Draft:
        """An empty part of this span, which begins at index `first`; `start` is its place in the source."""
        return Draft(self._options, self._versions, span, first, start)

    def commit(self, footer: PartFooter, data: bytes) -> tuple[PartName, bool]:
        """Put a finished part -> its name, size and version, and whether this put won. Raises `StorageError`.

        If another worker committed the part before, nothing is written: the version is then "", and the caller looks at what
        the committed part holds.
        """
        version = self._store.create(join(self._masks, str(footer.name)), data)
        if version is not None and footer.failures:  # whoever committed the part writes its failures
            self._store.replace(join(self._out, "failures", str(footer.name)), failures_bytes(footer))
        return replace(footer.name, size=len(data), version=version or ""), version is not None
