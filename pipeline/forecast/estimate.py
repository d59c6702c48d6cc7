"""What remains of a plan, counted or estimated from some of its shards, and a sample of its images."""

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import accumulate, chain, islice, pairwise, zip_longest
from typing import TypeVar

import pyarrow as pa

from pipeline.config import SegmentConfig
from pipeline.errors import BrokenShard, HostUnreachable, ObjectDenied, ObjectMissing, StorageError
from pipeline.listing.listing import Listing
from pipeline.output.parts import PART_BYTES
from pipeline.output.span import Span
from pipeline.plan.options import read_options
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject, seen
from pipeline.shards.parquet import open_parquet, read_parquet
from pipeline.shards.range_file import CHUNK_BYTES, RangeFile
from pipeline.shards.single import read_images
from pipeline.shards.tar import part_starts, read_tar
from pipeline.shards.tar_headers import FAR_BYTES
from pipeline.storage import ObjectInfo, scheme_of, store_for
from pipeline.worker.cutting import in_order

T = TypeVar("T")
SAMPLE_IMAGES = 64
SAMPLED_SHARDS = 8  # the first images of so many tars are read, and of at least so many Parquet row groups
SAMPLED_FOOTERS = 16
EXACT_TAR_BYTES = 64 << 20  # a tar up to this size is counted to its end ...
EXACT_TARS = 64  # ... if there are no more tars than this: walking the headers of a local tar takes milliseconds
EXACT_TARS_REMOTE = 8  # remote tars are read whole: one request per header would take longer
HEAD_BYTES = CHUNK_BYTES  # so much of a sampled tar is read: its first request brings as much
_SEED = 0
_GONE = (ObjectMissing, ObjectDenied, HostUnreachable)
_BEGINNING = Cursor()


def with_secret(shard: SourceObject, listing: Listing) -> SourceObject:
    """The shard with the query or password of its given URI, which is needed to fetch it."""
    return replace(shard, secret=listing.secrets.get(shard.uri))


class Seen:
    """What a listing brought: counts, and a random sample of the single images (Vitter's algorithm R)."""

    def __init__(self) -> None:
        self._random = random.Random(_SEED)  # noqa: S311 - a sample that repeats
        self.entries = self._images = self._sized = self._bytes = 0
        self.reservoir: list[SourceObject] = []

    def watch(self, entries: Iterable[SourceObject]) -> Iterator[SourceObject]:
        """Pass the entries on, and count them."""
        for entry in entries:
            self.entries += 1
            if entry.kind == "image":
                self._take(entry)
            yield entry

    def _take(self, entry: SourceObject) -> None:
        self._images += 1
        if entry.size is not None:
            self._sized, self._bytes = self._sized + 1, self._bytes + entry.size
        if len(self.reservoir) < SAMPLE_IMAGES:
            self.reservoir.append(entry)
        elif (at := self._random.randrange(self._images)) < SAMPLE_IMAGES:
            self.reservoir[at] = entry

    @property
    def image_bytes(self) -> float | None:
        """Mean bytes of the single images whose size the listing says; None if it says none."""
        return self._bytes / self._sized if self._sized else None


class RemainingWork:
    """What remains of the plan: images, bytes, parts and GETs, counted or estimated, and some of the images.

    tasks: how many images each span or piece has that a worker gets. read_s: CPU seconds of reading, all workers together.
    """

    def __init__(self, config: SegmentConfig, listing: Listing) -> None:
        self._config, self._listing, self._read = config, listing, read_options(config)
        self._random = random.Random(_SEED)  # noqa: S311 - a sample that repeats
        self._shards: dict[str, tuple[float, float]] = {}  # images and parts by URI
        self._heads: dict[str, list[list[EncodedImage]]] = {"tar": [], "parquet": [], "image": []}
        self._by_kind: Counter[str] = Counter()
        self.images = self.bytes = self.parts = self.gets = self.read_s = 0.0
        self.tasks: list[float] = []
        self._cpu_s: dict[str, float] = defaultdict(float)  # CPU seconds of reading the heads, by kind; below: their bytes
        self._cpu_bytes = Counter[str]()
        self.exact = True
        self.notes: list[str] = []

    def count(self, spans: Sequence[Span], seen: Seen, workers: int) -> None:
        """Look into the shards of these spans, and add the spans up."""
        shards = {span.source.uri: with_secret(span.source, self._listing) for span in spans if span.source.kind != "image"}
        self._tars([shard for shard in shards.values() if shard.kind == "tar"])
        self._parquets([shard for shard in shards.values() if shard.kind == "parquet"])
        if any(span.source.kind == "image" for span in spans):
            chosen = ((row, with_secret(image, self._listing)) for row, image in enumerate(seen.reservoir))
            with self._reading("image"):
                self._heads["image"] = [[image] for image in read_images(chosen, self._read)]
        lengths = [image.bytes_length or 0 for image in chain(*self._heads["image"])]
        image_bytes = seen.image_bytes or sum(lengths) / max(1, len(lengths))
        self._cpu_bytes["image"] = round(image_bytes * len(self._heads["image"]))
        for span in in_order(spans, workers):
            if span.source.kind == "image":
                self._add_images(span, image_bytes)
            else:
                self._add_shard(span)

    def sample(self) -> list[EncodedImage]:
        """Up to 64 images: each kind has its share, and each sampled shard of a kind gives about as many."""
        chosen: list[EncodedImage] = []
        for kind, images in self._by_kind.items():
            in_turn = (image for turn in zip_longest(*self._heads[kind]) for image in turn if image is not None)
            chosen += islice(in_turn, max(1, round(SAMPLE_IMAGES * images / max(1, self.images))))
        return chosen[:SAMPLE_IMAGES]

    def spare(self, sample: Sequence[EncodedImage]) -> list[EncodedImage]:
        """The images that were read and are not in the sample, in random order."""
        taken = set(map(id, sample))
        found = [image for image in chain(*chain(*self._heads.values())) if id(image) not in taken]
        spare = [image for image in found if image.data is not None or image.error is not None]
        self._random.shuffle(spare)
        return spare

    def _add_images(self, span: Span, image_bytes: float) -> None:
        assert span.stop is not None
        rows = span.stop - span.first
        images = rows - len(span.superseded)
        gets = images + 3  # reading the plan file takes 3: HEAD, footer, row group
        self._add("image", images, images * image_bytes, math.ceil(rows / self._config.part_images), gets)
        self.tasks.append(images)

    def _add_shard(self, span: Span) -> None:
        shard, (whole, parts) = span.source, self._shards[span.source.uri]
        images = max(0.0, (whole if span.stop is None else span.stop) - span.first)
        share = images / whole if whole else 1.0
        size = (shard.size or 0) * share
        parts = parts if share == 1 else max(1, math.ceil(parts * share))
        wanted = 1 if span.piece_bytes is None else math.ceil(size / span.piece_bytes)
        pieces = max(1, min(wanted, math.ceil(parts)))
        gets = pieces * (max(1, math.ceil(size / pieces / CHUNK_BYTES)) + (2 if shard.kind == "parquet" else 0))
        if span.piece_bytes is not None:  # finding the cuts reads whole chunks, or each header
            looks = math.ceil(size / CHUNK_BYTES if size <= FAR_BYTES * images else images)
            gets += 2 if shard.kind == "parquet" else looks
        self._add(shard.kind, images, size, parts, gets)
        edges = [number * math.ceil(parts) // pieces for number in range(pieces + 1)]
        self.tasks += [images * (stop - first) / math.ceil(parts) for first, stop in pairwise(edges)]

    def _add(self, kind: str, images: float, size: float, parts: float, gets: float) -> None:
        self._by_kind[kind] += round(images)
        self.read_s += size * self._cpu_s[kind] / max(1, self._cpu_bytes[kind])
        self.images, self.bytes, self.parts, self.gets = (
            self.images + images, self.bytes + size, self.parts + parts, self.gets + gets,
        )  # fmt: skip

    @contextmanager
    def _reading(self, kind: str) -> Iterator[None]:
        """Count the CPU time of reading: in a worker, the thread that reads ahead takes this time from the network's core."""
        started = time.process_time()
        yield
        self._cpu_s[kind] += time.process_time() - started

    def _spread(self, found: Sequence[T], count: int) -> list[T]:
        """`count` of the items found, one at random from each stretch of the listing."""
        edges = [len(found) * number // count for number in range(count + 1)]
        return [found[self._random.randrange(first, stop)] for first, stop in pairwise(edges) if first < stop]

    def _rows_a_part(self, image_bytes: float) -> int:
        return min(self._config.part_images, max(1, math.ceil(PART_BYTES / image_bytes)))

    def _tars(self, tars: Sequence[SourceObject]) -> None:
        """Count the images of small tars if there are few tars. Estimate the others from the bytes of some first images."""
        sampled = self._spread(tars, SAMPLED_SHARDS)
        known: dict[str, int] = {}
        rows = size = 0
        for tar in sampled:
            with self._reading("tar"):
                images, offset, whole = self._head(tar, math.ceil(SAMPLE_IMAGES / len(sampled)))
            self._cpu_bytes["tar"] += offset
            rows, size = rows + len(images), size + offset
            self._heads["tar"].append(images)
            if whole:
                known[tar.uri] = len(images)
        image_bytes = size / rows if rows and size else math.inf
        few = len(tars) <= (EXACT_TARS if all(scheme_of(tar.uri) == "file" for tar in tars) else EXACT_TARS_REMOTE)
        for tar in tars:
            if few and tar.uri not in known and (tar.size or 0) <= EXACT_TAR_BYTES:
                known[tar.uri] = self._count_tar(tar)
            images_of = known.get(tar.uri, (tar.size or 0) / image_bytes)
            self._shards[tar.uri] = images_of, max(1, math.ceil(images_of / self._rows_a_part(image_bytes)))
        if estimated := len(tars) - len(known):
            self.exact = False
            self.notes.append(
                f"images of {estimated:,} of {len(tars):,} tars: by the bytes of {rows:,} images in {len(sampled)} of them"
            )

    def _head(self, tar: SourceObject, least: int) -> tuple[list[EncodedImage], int, bool]:
        """The first rows of a tar, shuffled; the offset after them; and whether the tar has no more rows."""
        found: list[EncodedImage] = []
        offset, whole = 0, True
        with closing(_rows(tar, self._read)) as images:
            for image in images:
                found.append(image)
                offset = image.after.offset or 0
                if len(found) >= least and offset >= HEAD_BYTES:
                    whole = False
                    break
        self._random.shuffle(found)  # neighbours are alike
        return [*found[:SAMPLE_IMAGES], *(replace(image, data=None) for image in found[SAMPLE_IMAGES:])], offset, whole

    def _count_tar(self, tar: SourceObject) -> int:
        """How many rows a tar has, with the failure row if the tar is truncated."""
        start = Cursor()
        if scheme_of(tar.uri) == "file":
            with suppress(*_GONE):
                *_, start = part_starts(store_for(tar.fetch_uri), tar, self._read, 1, 1)  # the place of its last image
        return start.index + sum(1 for _ in _rows(tar, self._read, start))

    def _parquets(self, files: Sequence[SourceObject]) -> None:
        """Count the rows of Parquet files by their footers, or estimate them from the footers of some."""
        sampled = self._spread(files, SAMPLED_FOOTERS)
        groups = {file.uri: _row_groups(file) for file in sampled}
        size, rows = sum(file.size or 0 for file in sampled), sum(map(sum, groups.values()))
        a_part = self._rows_a_part(size / max(1, rows) or math.inf)
        parts = {uri: max(1, sum(math.ceil(count / a_part) for count in counts)) for uri, counts in groups.items()}
        for file in files:
            share = (file.size or 0) / max(1, size)
            estimate = share * rows, max(1.0, share * sum(parts.values()))
            self._shards[file.uri] = (sum(groups[file.uri]), parts[file.uri]) if file.uri in groups else estimate
        if len(groups) < len(files):
            self.exact = False
            self.notes.append(f"images of {len(files) - len(groups):,} of {len(files):,} Parquet files: by {len(groups)} footers")
        begins = [
            (file, first, count)
            for file in sampled
            for first, count in zip(accumulate(groups[file.uri], initial=0), groups[file.uri], strict=False)
            if count
        ]
        few = math.ceil(SAMPLE_IMAGES * len(begins) / max(1, rows))  # so many groups hold 64 images together
        for file, first, count in (chosen := self._spread(begins, max(SAMPLED_SHARDS, few))):
            with self._reading("parquet"), closing(_rows(file, self._read, Cursor(first))) as images:
                self._heads["parquet"].append(list(islice(images, min(count, math.ceil(SAMPLE_IMAGES / len(chosen))))))
            self._cpu_bytes["parquet"] += sum(image.bytes_length or 0 for image in self._heads["parquet"][-1])


def _rows(shard: SourceObject, read: ReadOptions, start: Cursor = _BEGINNING) -> Generator[EncodedImage, None, None]:
    """The rows of a shard as a worker sees them. A shard that is gone or denied is one failure."""
    reader = read_tar if shard.kind == "tar" else read_parquet
    try:
        yield from reader(store_for(shard.fetch_uri), shard, start, read)
    except _GONE as gone:
        error = BrokenShard(str(gone))
        yield EncodedImage(shard=shard.uri, index=start.index, image_id=shard.uri, after=start, error=error, truncated=True)


def _row_groups(file: SourceObject) -> list[int]:
    """How many rows each row group has. A file that is gone, or has no footer, counts as one row: its failure."""
    try:
        file = seen(store_for(file.fetch_uri), file)
    except _GONE:
        return [1]
    info = ObjectInfo(file.fetch_uri, file.size, file.version)
    with RangeFile(store_for(file.fetch_uri), info, ahead=False) as opened:
        try:
            metadata = open_parquet(opened).metadata
        except MemoryError:  # also raised by Arrow; it says nothing about the file
            raise
        except (pa.ArrowException, OSError, StorageError) as error:
            failure = error if isinstance(error, StorageError) else opened.failure
            if failure is None or isinstance(failure, _GONE):
                return [1]
            raise failure from error
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
