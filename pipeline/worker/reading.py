"""A span -> its images, decoded and resized, ahead of the network."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from pipeline.errors import BadImage, HostUnreachable, ObjectMissing, StorageError
from pipeline.labels.labeller import Labelled, Labeller, Resized
from pipeline.output.span import Span
from pipeline.plan.plan import read_plan_rows
from pipeline.quarantine.quarantine import Watch
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
from pipeline.shards.single import read_images
from pipeline.shards.tar import read_tar
from pipeline.shards.truncated import to_the_stop, truncation
from pipeline.storage import store_for
from pipeline.storage.answers import FINAL, Answers
from pipeline.worker.beside import Beside
from pipeline.worker.prefetch import ReadAhead

IMAGES_AHEAD = 4
WAITING_BYTES = 112 << 20  # most bytes of the images that wait; see `ENCODED_AHEAD_BYTES`


@dataclass(frozen=True, slots=True)
class Item:
    """An image after reading: resized for the network, or labelled already in an isolated child, or failed."""

    encoded: EncodedImage
    found: Resized | Labelled | BadImage

    def size(self) -> int:
        """How many bytes of memory the item keeps."""
        if isinstance(self.found, Resized):
            return self.found.pixels_HWC.nbytes
        if isinstance(self.found, Labelled):
            return self.found.statistics.mask.nbytes + self.found.statistics.confidence.nbytes
        return 0


class SpanReader:
    """Reads the spans of one worker. cpu_ms: CPU milliseconds of reading so far, without decoding and resizing."""

    def __init__(self, output: str, options: ReadOptions, labeller: Labeller) -> None:
        self._output, self._options, self._labeller = output, options, labeller
        self._answers, self._beside = Answers(), Beside(output)
        self.cpu_ms = 0.0

    def ahead(self, span: Span, cursor: Cursor, watch: Watch) -> ReadAhead[Item]:
        """The images of a span from `cursor` on, read in a thread of their own. The caller must close the iterator."""
        return ReadAhead(self._items(span, cursor, watch), IMAGES_AHEAD, max_bytes=WAITING_BYTES, size_of=Item.size)

    def _items(self, span: Span, cursor: Cursor, watch: Watch) -> Iterator[Item]:
        with closing(self._encoded(span, cursor, watch)) as images:
            position = cursor.index
            while True:
                started = time.thread_time()
                with watch.unpacking(position) if span.source.kind == "parquet" else nullcontext():
                    encoded = next(images, None)
                self.cpu_ms += 1000 * (time.thread_time() - started)
                if encoded is None:
                    return
                position = encoded.after.index
                item = Item(replace(encoded, data=None), self._prepared(encoded, watch))
                del encoded  # else memory holds its bytes beside those of the next image
                yield item
                del item

    def _prepared(self, encoded: EncodedImage, watch: Watch) -> Resized | Labelled | BadImage:
        """Decode and resize an image. A suspect image, which may have killed a worker, goes to an isolated child instead."""
        if encoded.error is not None:
            return encoded.error
        assert encoded.data is not None
        if watch.suspect(encoded.position):
            return watch.judge(encoded.position, encoded.data, encoded.name)
        try:
            with watch.decoding(encoded.position):
                return self._labeller.read(encoded.data, encoded.name)
        except BadImage as error:
            error.__cause__ = error.__context__ = None  # their frames hold the bytes of the image
            return error.with_traceback(None)
        except MemoryError:
            if not watch.was_left:
                raise  # a later round tries again, with this image as a suspect; memory may be free by then
        return watch.judge(encoded.position, encoded.data, encoded.name)

    def _encoded(self, span: Span, cursor: Cursor, watch: Watch) -> Generator[EncodedImage]:
        source = span.source
        if source.kind == "image":
            rows, secrets = read_plan_rows(self._output, source.uri, cursor.index, span.stop), dict(span.secrets)
            superseded = frozenset(span.superseded)  # may hold every row
            wanted = ((row, replace(image, secret=secrets.get(row))) for row, image in rows if row not in superseded)
            yield from read_images(wanted, self._options, self._answers, partial(self._beside.of, span))
            return
        yield from to_the_stop(self._of_shard(span, cursor, watch), source, cursor, span.stop)

    def _of_shard(self, span: Span, cursor: Cursor, watch: Watch) -> Iterator[EncodedImage]:
        """The images of a shard. If the shard is gone, or access to it is denied for good, it ends there as truncated."""
        shard, position = span.source, cursor
        try:
            for image in self._members(shard, cursor, watch):
                self._answers.heard(shard.fetch_uri)
                position = image.after
                yield image
                del image
        except FINAL as gone:
            if isinstance(gone, HostUnreachable) and shard.size is not None:
                raise  # the host answered when the shard was listed, and may come back
            since, signed, was_there = time.monotonic(), shard.secret is not None, shard.size is not None
            others = partial(self._beside.of, span)
            if not self._answers.is_its_own(
                shard.fetch_uri, gone, since=since, signed=signed, was_there=was_there, candidates=others
            ):
                raise StorageError(f"{gone} (and nothing else can be read there now)", gone.code) from gone
            if not self._answers.says_again(shard.fetch_uri):
                raise StorageError(f"{gone} (a moment ago, and not now)", gone.code) from gone
            yield truncation(shard, position, _why(gone))

    def _members(self, shard: SourceObject, cursor: Cursor, watch: Watch) -> Iterator[EncodedImage]:
        if shard.kind == "tar":
            return read_tar(store_for(shard.fetch_uri), shard, cursor, self._options)
        if watch.unpacks_apart:
            return watch.read_apart(shard, cursor, self._options)
        return read_parquet(store_for(shard.fetch_uri), shard, cursor, self._options)


def _why(gone: StorageError) -> str:
    if isinstance(gone, HostUnreachable):
        return f"the shard cannot be reached: {gone.code}"
    return "the shard is gone" if isinstance(gone, ObjectMissing) else "access to the shard is denied"
