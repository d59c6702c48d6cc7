"""What a run would take, before it is paid for: `forecast(config)` lists, counts, labels 32 images, and writes nothing."""

import math
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice, pairwise, zip_longest
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config import SegmentConfig
from pipeline.errors import BadImage, BrokenShard, Incomplete, NotReachable, ObjectDenied, ObjectMissing, StorageError
from pipeline.labels.labeller import Labeller, LabelOptions, Resized
from pipeline.labels.statistics import LEVELS
from pipeline.model.engine import Prepared, load_engine
from pipeline.model.prepare import prepare
from pipeline.run.ahead import ReadAhead
from pipeline.run.identity import check_same, settings
from pipeline.run.left import planned_sources, remaining_spans, worth_cutting
from pipeline.run.parts import PART_BYTES, PartFooter, add_digests, list_parts, part_bytes, row_digest
from pipeline.run.plan import extend_plan, read_plan
from pipeline.run.progress import Progress
from pipeline.run.segment import REFRESH_S, Attempt, check_head, label_options, network_request, read_options
from pipeline.run.span import Span
from pipeline.run.worker import IMAGES_AHEAD
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, Shard
from pipeline.shards.listing import Listing, list_inputs
from pipeline.shards.parquet import open_parquet, read_parquet
from pipeline.shards.single import read_images
from pipeline.shards.tar import part_starts, read_tar
from pipeline.storage import ObjectInfo, WritableStore, scheme_of, store_for, writable_store_for
from pipeline.storage.stream import CHUNK_BYTES, RangeFile

SAMPLE_IMAGES = 32
SAMPLED_SHARDS = 8  # of a kind, whose first images are read
SAMPLED_FOOTERS = 16
EXACT_TAR_BYTES = 64 << 20  # up to here a tar is counted to its end ...
EXACT_TARS = 64  # ... while there are no more than this: the headers of a local tar are walked in milliseconds
EXACT_TARS_REMOTE = 8  # these are read whole, as a request for each header would take longer
HEAD_BYTES = CHUNK_BYTES  # of a sampled tar: what its first request brings anyway
# What a job takes besides labelling: Python and Ray start, workers load the network, Ray ends. The wall time of
# `python -m jobs.segment` less the milliseconds of its stages / workers was 10.6 s on 2 cores, for 214 images in 8 tars.
# The network is not in it: preparing it takes some 10 s once, and the forecast has left it in the cache.
START_S = 10.0
_LEAST_SHARE = 8  # images a process, so that on many cores none is timed by a single image
_BARRIER_S = 300.0
_PAGE = 1000  # objects a LIST request
_SEED = 0
_BEGINNING = Cursor()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Requests to object stores; HEAD counts as GET."""

    get: int
    put: int
    list: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What this run is expected to do: all of it for what is left, and `skipped` are the images committed before.

    tars, parquet_files, single_images: planned. exact: were the images counted, not estimated? bytes: to read.
    labelled, failures, errors, classes, milliseconds (an image, by stage): of the sample. seconds: of the job, from start
    to end. seconds_per_image: of one worker while all are at work. core_hours: all workers for `seconds`.
    """

    tars: int
    parquet_files: int
    single_images: int
    ignored_objects: int
    images: int
    exact: bool
    skipped: int
    bytes: int
    parts: int
    workers: int
    labelled: int
    failures: int
    errors: dict[str, int]
    classes: list[dict[str, Any]]
    milliseconds: dict[str, float]
    seconds_per_image: float
    labelling_seconds: float
    seconds: float
    output_bytes: int
    requests: Requests
    core_hours: float
    usd: float | None
    notes: tuple[str, ...] = ()

    @property
    def images_per_s(self) -> float:
        """Of all workers, while they label."""
        return self.images / self.labelling_seconds if self.labelling_seconds else 0.0

    @property
    def images_per_s_a_core(self) -> float:
        """Of one worker."""
        return 1 / self.seconds_per_image if self.seconds_per_image else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"images_per_s": self.images_per_s, "images_per_s_a_core": self.images_per_s_a_core}


def forecast(config: SegmentConfig) -> Forecast:
    """What a run would take for what its OUT does not hold yet. Nothing is written there, and Ray is not started.

    Raises what the run would raise before it starts.
    """
    started, store, listing = time.perf_counter(), _Rehearsal(writable_store_for(config.output)), Listing()
    try:
        plan = read_plan(store, config.output)
    except StorageError as error:
        raise NotReachable(f"--output: {error}") from error
    planned_files = len(plan.files) if plan else 0
    entries = list_inputs(
        config.input, listing, input_format=config.input_format, image_column=config.image_column, output=config.output
    )
    head = list(islice(entries, 1))
    if plan is None:
        check_head(_with_secret(head[0], listing), read_options(config))
    listing_s = time.perf_counter() - started
    network = prepare(network_request(config))
    started, mine, seen = time.perf_counter(), settings(config, network), _Seen()
    if plan is not None:
        check_same(plan.settings, mine, config.output)
    try:
        plan = extend_plan(
            store, config.output, plan, seen.watch(chain(head, entries)), mine, relabel_changed=config.relabel_changed
        )
    except StorageError as error:
        raise NotReachable(f"--output: {error}") from error
    attempt = Attempt(config, Progress())
    attempt.store = store
    attempt._remove_stale(plan)  # what --redo and --relabel-changed make again; the rehearsal only notes it
    sources = planned_sources(plan)
    committed = {source: names for source, names in list_parts(store, config.output).items() if source in sources}
    skipped = sum(name.rows for names in committed.values() for name in names)
    cores = _cores()
    workers = config.workers or cores
    spans = remaining_spans(plan, committed, part_images=config.part_images, workers=workers)
    listing_s += time.perf_counter() - started

    left = _Left(config, listing)
    try:
        left.count(spans, seen, workers)
    except StorageError as error:
        raise NotReachable(str(error)) from error
    share = 1.0 if config.limit is None or not left.images else min(1.0, max(0, config.limit - skipped) / left.images)
    images, parts = round(left.images * share), math.ceil(left.parts * share)
    sample = _measure(network, label_options(config, network), left.sample() if parts else [], min(workers, cores))
    failures = Counter(outcome for outcome in sample.outcomes if isinstance(outcome, str))
    sound = 1 - failures.total() / max(1, len(sample.outcomes))
    # Workers take whole parts, and the last round of them takes as long as the others, also where it is not full.
    labelling_s = math.ceil(parts / workers) * images / parts * sample.seconds_per_image if parts else 0.0
    seconds = listing_s + (START_S + sample.warming_s + labelling_s if parts else 0.0)
    core_hours = workers * seconds / 3600
    done = sum(map(len, committed.values()))
    requests = Requests(
        # The plan and the file that is not behind it, run.json, the head of the first shard; footers (HEAD, GET); the input.
        get=planned_files + 2 + (planned_files == 0) + 2 * done + round(left.gets * share),
        # The plan; masks; failures of the parts that have some; class_stats; run.json at the start, at the end, in between.
        put=len(store.created) + parts + round(parts * (1 - sound ** (images / max(1, parts)))) + 3 + int(seconds / REFRESH_S),
        # The input; for each part, is it there?; masks/ before, behind the pass and in the summing up, failures/.
        list=len(config.input) + (seen.entries + listing.ignored) // _PAGE + parts + 6 + 5 * ((done + parts) // _PAGE),
    )
    kinds = Counter(shard.kind for shard in plan.shards.values())
    single = sum(file.rows - len(plan.superseded.get(file.number, ())) for file in plan.files if file.images)
    return Forecast(
        tars=kinds["tar"], parquet_files=kinds["parquet"], single_images=single, ignored_objects=listing.ignored,
        images=images, exact=left.exact, skipped=skipped, bytes=round(left.bytes * share), parts=parts, workers=workers,
        labelled=len(sample.outcomes), failures=failures.total(), errors=dict(failures.most_common()),
        classes=_classes(sample.outcomes, network.classes), milliseconds=sample.milliseconds,
        seconds_per_image=sample.seconds_per_image, labelling_seconds=labelling_s, seconds=seconds,
        output_bytes=round(sum(store.created) + parts * sample.part_bytes + images * sample.image_bytes),
        requests=requests, core_hours=core_hours,
        usd=None if config.usd_per_core_hour is None else core_hours * config.usd_per_core_hour,
        notes=tuple(_notes(config, cores, left, spans)),
    )  # fmt: skip


def _notes(config: SegmentConfig, cores: int, left: "_Left", spans: Sequence[Span]) -> Iterator[str]:
    if config.workers is None and os.environ.get("RAY_ADDRESS", "local") != "local":
        yield f"the {cores} cores of this machine were counted, not those of the cluster at RAY_ADDRESS: give --workers"
    yield from left.notes
    if config.limit is not None:
        yield f"--limit {config.limit}: the run stops there, at the end of the parts that are begun"
    if all(scheme_of(uri) == "file" for uri in (config.output, *config.input, *(span.source.uri for span in spans))):
        yield "input and output are local: the requests are what an object store would get"


def _cores() -> int:
    """Cores of this machine, or what its container may use of them, as Ray counts them."""
    count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return count


def _with_secret(shard: Shard, listing: Listing) -> Shard:
    """As it is fetched: with the query or password that its URI was given with."""
    return replace(shard, secret=listing.secrets.get(shard.uri))


class _Rehearsal:
    """A store whose writes are only noted, so that the code of a real run can be asked what it would do."""

    def __init__(self, store: WritableStore) -> None:
        self._store = store
        self.created: list[int] = []  # bytes
        self._deleted: set[str] = set()
        self.stat, self.read, self.names = store.stat, store.read, store.names

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """What is there, less what was deleted here."""
        return (info for info in self._store.walk(prefix) if info.uri not in self._deleted)

    def create(self, uri: str, data: bytes) -> bool:
        """Note the size."""
        self.created.append(len(data))
        return bool(uri)

    def replace(self, uri: str, data: bytes) -> None:
        """Note the size."""
        self.create(uri, data)

    def sweep(self, out: str) -> None:
        """Nothing was left half-written here."""

    def delete(self, uri: str) -> None:
        """Note the name."""
        self._deleted.add(uri)


class _Seen:
    """What passed by in a listing: counts, and a reservoir of single images (Vitter's algorithm R)."""

    def __init__(self) -> None:
        self._random = random.Random(_SEED)  # noqa: S311 - a sample that repeats
        self.entries = self._images = self._sized = self._bytes = 0
        self.reservoir: list[Shard] = []

    def watch(self, entries: Iterable[Shard]) -> Iterator[Shard]:
        """The same entries."""
        for entry in entries:
            self.entries += 1
            if entry.kind == "image":
                self._take(entry)
            yield entry

    def _take(self, entry: Shard) -> None:
        self._images += 1
        if entry.size is not None:
            self._sized, self._bytes = self._sized + 1, self._bytes + entry.size
        if len(self.reservoir) < SAMPLE_IMAGES:
            self.reservoir.append(entry)
        elif (at := self._random.randrange(self._images)) < SAMPLE_IMAGES:
            self.reservoir[at] = entry

    @property
    def image_bytes(self) -> float | None:
        """The mean of the single images whose size the listing says."""
        return self._bytes / self._sized if self._sized else None


class _Left:
    """What is left of the plan: images, bytes, parts and GETs, counted or estimated, and some of the images."""

    def __init__(self, config: SegmentConfig, listing: Listing) -> None:
        self._config, self._listing, self._read = config, listing, read_options(config)
        self._random = random.Random(_SEED)  # noqa: S311 - a sample that repeats
        self._shards: dict[str, tuple[float, float]] = {}  # images and parts of each
        self._heads: dict[str, list[list[EncodedImage]]] = {"tar": [], "parquet": [], "image": []}
        self._by_kind: Counter[str] = Counter()
        self.images = self.bytes = self.parts = self.gets = 0.0
        self.exact = True
        self.notes: list[str] = []

    def count(self, spans: Sequence[Span], seen: _Seen, workers: int) -> None:
        """Look into the shards of these spans, and add the spans up."""
        shards = {span.source.uri: _with_secret(span.source, self._listing) for span in spans if span.source.kind != "image"}
        self._tars([shard for shard in shards.values() if shard.kind == "tar"])
        self._parquets([shard for shard in shards.values() if shard.kind == "parquet"])
        if any(span.source.kind == "image" for span in spans):
            chosen = ((row, _with_secret(image, self._listing)) for row, image in enumerate(seen.reservoir))
            self._heads["image"] = [[image] for image in read_images(chosen, self._read)]
        lengths = [image.bytes_length or 0 for image in chain(*self._heads["image"])]
        image_bytes = seen.image_bytes or sum(lengths) / max(1, len(lengths))
        for span in spans:
            if span.source.kind == "image":
                self._add_images(span, image_bytes)
            else:
                self._add_shard(span)
        for span in worth_cutting(spans, workers):
            if span.source.kind == "tar":
                self.gets += self._shards[span.source.uri][0]  # every header is read, to find where parts begin

    def sample(self) -> list[EncodedImage]:
        """32 images: of each kind as many as its share, of each of its sampled shards the first ones."""
        chosen: list[EncodedImage] = []
        for kind, images in self._by_kind.items():
            in_turn = (image for turn in zip_longest(*self._heads[kind]) for image in turn if image is not None)
            chosen += islice(in_turn, max(1, round(SAMPLE_IMAGES * images / max(1, self.images))))
        return chosen[:SAMPLE_IMAGES]

    def _add_images(self, span: Span, image_bytes: float) -> None:
        assert span.stop is not None
        rows = span.stop - span.first
        images = rows - len(span.superseded)
        gets = images + 3  # the rows of the plan file: HEAD, footer, row group
        self._add("image", images, images * image_bytes, math.ceil(rows / self._config.part_images), gets)

    def _add_shard(self, span: Span) -> None:
        shard, (whole, parts) = span.source, self._shards[span.source.uri]
        images = max(0.0, (whole if span.stop is None else span.stop) - span.first)
        share = images / whole if whole else 1.0
        size = (shard.size or 0) * share
        gets = max(1, math.ceil(size / CHUNK_BYTES)) + (2 if shard.kind == "parquet" else 0)
        self._add(shard.kind, images, size, parts if share == 1 else max(1, math.ceil(parts * share)), gets)

    def _add(self, kind: str, images: float, size: float, parts: float, gets: float) -> None:
        self._by_kind[kind] += round(images)
        self.images, self.bytes, self.parts, self.gets = (
            self.images + images, self.bytes + size, self.parts + parts, self.gets + gets,
        )  # fmt: skip

    def _spread(self, shards: Sequence[Shard], count: int) -> list[Shard]:
        """`count` of them, one of each stretch of the listing."""
        edges = [len(shards) * number // count for number in range(count + 1)]
        return [shards[self._random.randrange(first, stop)] for first, stop in pairwise(edges) if first < stop]

    def _rows_a_part(self, image_bytes: float) -> int:
        return min(self._config.part_images, max(1, math.ceil(PART_BYTES / image_bytes)))

    def _tars(self, tars: Sequence[Shard]) -> None:
        """Small tars to their end while they are few; the others by the bytes that the first images of some take."""
        sampled = self._spread(tars, SAMPLED_SHARDS)
        known: dict[str, int] = {}
        rows = size = 0
        for tar in sampled:
            images, offset, whole = self._head(tar, math.ceil(SAMPLE_IMAGES / len(sampled)))
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

    def _head(self, tar: Shard, least: int) -> tuple[list[EncodedImage], int, bool]:
        """The first rows of a tar, the offset behind them, and whether that is all."""
        found: list[EncodedImage] = []
        offset = 0
        with closing(_rows(tar, self._read)) as images:
            for image in images:
                found.append(image if len(found) < SAMPLE_IMAGES else replace(image, data=None))
                offset = image.after.offset or 0
                if len(found) >= least and offset >= HEAD_BYTES:
                    return found, offset, False
        return found, offset, True

    def _count_tar(self, tar: Shard) -> int:
        """Rows of a tar, that of a break too."""
        start = Cursor()
        if scheme_of(tar.uri) == "file":
            with suppress(ObjectMissing, ObjectDenied):
                start = part_starts(store_for(tar.fetch_uri), tar, self._read, 1, 1)[-1]  # where its last image begins
        return start.index + sum(1 for _ in _rows(tar, self._read, start))

    def _parquets(self, files: Sequence[Shard]) -> None:
        """By their footers, or by those of some."""
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
        for file in (chosen := self._spread(sampled, SAMPLED_SHARDS)):
            with closing(_rows(file, self._read)) as images:
                self._heads["parquet"].append(list(islice(images, math.ceil(SAMPLE_IMAGES / len(chosen)))))


def _rows(shard: Shard, read: ReadOptions, start: Cursor = _BEGINNING) -> Generator[EncodedImage, None, None]:
    """The rows of a shard as a worker sees them: one that is gone or closed is a failure."""
    reader = read_tar if shard.kind == "tar" else read_parquet
    try:
        yield from reader(store_for(shard.fetch_uri), shard, start, read)
    except (ObjectMissing, ObjectDenied) as gone:
        error = BrokenShard("the shard is gone" if isinstance(gone, ObjectMissing) else "access to the shard is denied")
        yield EncodedImage(shard=shard.uri, index=start.index, image_id=shard.uri, after=start, error=error, breaks=True)


def _row_groups(file: Shard) -> list[int]:
    """Rows of the row groups; a file that is gone, or has no footer, is one failure."""
    assert file.size is not None
    info = ObjectInfo(file.fetch_uri, file.size, file.version)
    with RangeFile(store_for(file.fetch_uri), info, ahead=False) as opened:
        try:
            metadata = open_parquet(opened).metadata
        except (pa.ArrowException, OSError, StorageError) as error:
            failure = error if isinstance(error, StorageError) else opened.failure
            if failure is None or isinstance(failure, ObjectMissing | ObjectDenied):
                return [1]
            raise failure from error
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


Outcome = str | npt.NDArray[np.int64]  # of an image: the class of its error, or the pixels of each class


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What labelling the sample showed. image_bytes, part_bytes: of the output, for each image and part.

    warming_s: what the first pass over it took longer than the second: kernels for each shape of input, loaded code.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    seconds_per_image: float = 0.0
    warming_s: float = 0.0
    image_bytes: float = 0.0
    part_bytes: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One process, its share of the sample once."""

    outcomes: dict[int, Outcome]
    seconds: float
    row_bytes: float
    part_bytes: float
    milliseconds: dict[str, float]


def _measure(network: Prepared, options: LabelOptions, images: Sequence[EncodedImage], processes: int) -> _Sample:
    """Label in as many processes as there will be workers here, at the same time: they share caches, clock and hyperthreads."""
    if not images:
        return _Sample()
    numbered = list(enumerate(images))
    size = max(math.ceil(len(images) / processes), min(_LEAST_SHARE, len(images)))
    shares = [[numbered[(first + step) % len(images)] for step in range(size)] for first in range(0, processes * size, size)]
    if processes == 1:
        passes = [_label_twice(network, options, shares[0])]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _begin, (context.Barrier(processes),)) as pool:
            try:
                passes = list(pool.map(_label_twice, [network] * processes, [options] * processes, shares))
            except BrokenProcessPool as error:
                raise Incomplete("a process died while it labelled the sample: is there memory for --workers?") from error
    warm = [second for _, second in passes]
    count = size * processes
    stages = Counter[str]()
    for each in warm:
        stages.update(each.milliseconds)
    outcomes = {number: outcome for each in warm for number, outcome in each.outcomes.items()}
    return _Sample(
        outcomes=[outcomes[number] for number in sorted(outcomes)],
        seconds_per_image=sum(each.seconds for each in warm) / count,
        warming_s=sum(max(0.0, first.seconds - second.seconds) for first, second in passes) / processes,
        image_bytes=sum(each.row_bytes for each in warm) / count,
        part_bytes=sum(each.part_bytes for each in warm) / processes,
        milliseconds={stage: round(spent / count, 2) for stage, spent in stages.items()},
    )


_barriers: list[Barrier] = []  # of this process; a barrier cannot be sent with a task


def _begin(barrier: Barrier) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells
    _barriers.append(barrier)


def _label_twice(network: Prepared, options: LabelOptions, share: Sequence[tuple[int, EncodedImage]]) -> tuple[_Pass, _Pass]:
    labeller = Labeller(load_engine(network), options)
    first = _label(labeller, share)
    for barrier in _barriers:
        barrier.wait(_BARRIER_S)
    labeller.milliseconds.clear()
    return first, _label(labeller, share)


def _label(labeller: Labeller, share: Sequence[tuple[int, EncodedImage]]) -> _Pass:
    """As a worker does it: images read ahead in a thread, rows made, a part packed."""
    started = time.perf_counter()
    outcomes: dict[int, Outcome] = {}
    rows: list[dict[str, object]] = []
    histograms = np.zeros((len(labeller.options.classes), LEVELS), np.int64)
    digest = 0
    for number, image, resized in ReadAhead(_resized(labeller, share), IMAGES_AHEAD):
        try:
            if isinstance(resized, BadImage):
                raise resized
            labelled = labeller.label(resized)
        except BadImage as error:
            outcomes[number] = error.kind
            continue
        statistics = labelled.statistics
        outcomes[number] = statistics.pixels
        histograms += statistics.histogram
        digest += row_digest(image.shard, image.index, statistics.mask)
        key = {"image_id": image.image_id, "shard": image.shard, "index": image.index}
        place = {"member": image.member, "offset": image.offset, "length": image.length}
        rows.append(key | place | labelled.columns)
    counts = tuple(histograms.sum(axis=1).tolist())
    footer = PartFooter(
        fingerprint="0" * 64, source={"uri": share[0][1].shard, "size": 1, "version": ""}, first=0, rows=len(share), last=False,
        masks=len(rows), broken=False, failures=(), histograms=histograms, images_by_class=counts, pixels_by_class=counts,
        pixels=sum(counts), digest=add_digests([digest]), after=Cursor(), versions={},
    )  # fmt: skip
    data = part_bytes(rows, footer, confidence_map=labeller.options.confidence_map)
    seconds = time.perf_counter() - started
    # A file has a fixed part and one a row: files of one row, and the file of all, say both.
    single = [len(part_bytes([row], footer, confidence_map=labeller.options.confidence_map)) for row in rows]
    row_bytes = (len(data) - sum(single) / len(rows)) / (len(rows) - 1) if len(rows) > 1 else 0.0
    return _Pass(
        outcomes=outcomes, seconds=seconds, row_bytes=row_bytes * len(rows), part_bytes=len(data) - row_bytes * len(rows),
        milliseconds=dict(labeller.milliseconds),
    )  # fmt: skip


def _resized(
    labeller: Labeller, share: Iterable[tuple[int, EncodedImage]]
) -> Iterator[tuple[int, EncodedImage, Resized | BadImage]]:
    for number, image in share:
        try:
            if image.error is not None or image.data is None:
                raise image.error or BadImage("no data")
            yield number, image, labeller.read(image.data)
        except BadImage as error:
            yield number, image, error


def _classes(outcomes: Iterable[Outcome], names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes seen in the sample, the largest first."""
    masks = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    pixels = sum(masks, np.zeros(len(names), np.int64))
    rows = [
        {
            "class_id": class_id, "name": names[class_id], "images": sum(bool(mask[class_id]) for mask in masks),
            "pixels": int(pixels[class_id]), "fraction": float(pixels[class_id] / pixels.sum()),
        }
        for class_id in np.flatnonzero(pixels).tolist()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["pixels"])
