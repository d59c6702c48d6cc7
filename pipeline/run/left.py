"""What is left to do: the plan minus the committed parts, as spans."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TypeVar

from pipeline.errors import StorageError
from pipeline.run.parts import PART_BYTES, PartName, source_digest
from pipeline.run.plan import Plan, PlanFile
from pipeline.run.span import Span
from pipeline.shards.base import Cursor, ReadOptions, Shard
from pipeline.shards.parquet import row_group_starts
from pipeline.shards.tar import part_starts
from pipeline.storage import store_for

T = TypeVar("T")
Committed = Mapping[str, Sequence[PartName]]
SPANS_A_WORKER = 8  # enough that the last ones end together
SHORT_SHARD_BYTES = 8 << 20  # not worth cutting
SPANS_AHEAD = 2  # of a worker: one that it labels, one that waits
_IMAGE_BYTES = 100_000  # about; only to compare spans
WAVE_SPANS, WAVE_SPANS_A_WORKER = 100_000, 500  # whichever is more: about a kilobyte of the driver each


@dataclass(frozen=True, slots=True)
class Gap:
    """Indices `first` to `stop` (None: the end) of a source that no part covers, behind the part `after`."""

    first: int
    stop: int | None
    after: PartName | None


def gaps(parts: Sequence[PartName]) -> Iterator[Gap]:
    """Where the chain of a source's parts is broken, or not yet at its last."""
    expected, previous = 0, None
    for part in parts:
        if part.first > expected:
            yield Gap(expected, part.first, previous)
        if part.first >= expected:
            expected, previous = part.stop, part
    if previous is None or not previous.last:
        yield Gap(expected, None, previous)


def plan_file_digest(file: PlanFile) -> str:
    """The source of the parts of a plan file's single images."""
    return source_digest(file.name, None, None)


def shard_digest(shard: Shard) -> str:
    """The source of the parts of a shard."""
    return source_digest(shard.uri, shard.size, shard.version)


def planned_sources(plan: Plan) -> set[str]:
    """The digests of all sources that count."""
    return {shard_digest(shard) for shard in plan.shards.values()} | {plan_file_digest(f) for f in plan.files if f.images}


def remaining_spans(plan: Plan, committed: Committed, *, part_images: int, workers: int) -> list[Span]:
    """All that is left, in the order of the plan."""
    return list(_spans(plan, committed, part_images, workers))


def waves(plan: Plan, committed: Committed, *, part_images: int, workers: int, begin: float = 0.0) -> Iterator[list[Span]]:
    """The same, as many at a time as Ray should hold: of a million, all at once took 50 s and 800 MB of the driver.

    begin: where in the plan, 0 to 1; what lies before comes last. Two attempts that begin elsewhere meet late.
    """
    spans = _spans(plan, committed, part_images, workers, begin)
    size = max(WAVE_SPANS, WAVE_SPANS_A_WORKER * workers)
    return iter(lambda: list(islice(spans, size)), [])


def is_left(plan: Plan, committed: Committed) -> bool:
    """Is anything? A million spans are 200 MB, and seconds to make."""
    return any(True for _ in _spans(plan, committed, 1, 1))


def _turned(items: Collection[T], begin: float) -> Iterator[T]:
    first = int(len(items) * begin)
    return chain(islice(items, first, None), islice(items, first))


def _spans(plan: Plan, committed: Committed, part_images: int, workers: int, begin: float = 0.0) -> Iterator[Span]:
    for shard in _turned(plan.shards.values(), begin):
        digest = shard_digest(shard)
        for gap in gaps(committed.get(digest, ())):
            yield Span(source=shard, digest=digest, first=gap.first, stop=gap.stop, after=gap.after)
    images = [file for file in plan.files if file.images]
    parts_a_span = max(1, sum(file.rows for file in images) // part_images // (workers * SPANS_A_WORKER))
    for file in images:
        yield from _turned(list(_image_spans(file, plan, committed, parts_a_span * part_images)), begin)


def _image_spans(file: PlanFile, plan: Plan, committed: Committed, rows_a_span: int) -> Iterator[Span]:
    digest = plan_file_digest(file)
    source = Shard(uri=file.name, kind="image", size=None, version=None)
    for gap in gaps(committed.get(digest, ())):
        end = file.rows if gap.stop is None else gap.stop
        for first in range(gap.first, end, rows_a_span):
            stop = min(first + rows_a_span, end)
            yield Span(
                source=source, digest=digest, first=first, stop=stop, ends=stop == file.rows, start=Cursor(first),
                superseded=tuple(row for row in plan.superseded.get(file.number, ()) if first <= row < stop),
            )  # fmt: skip


def longest_first(spans: Sequence[Span], workers: int) -> Sequence[Span]:
    """Where spans are few, the order in which workers end together; many end together in any order."""
    return sorted(spans, key=_weight, reverse=True) if len(spans) <= 4 * SPANS_A_WORKER * workers else spans


def _weight(span: Span) -> float:
    """About its images."""
    stop = (span.source.size or 0) / _IMAGE_BYTES if span.stop is None else span.stop
    return max(0.0, stop - span.first)


def limited(spans: Sequence[Span], images: int, part_images: int) -> list[Span]:
    """Spans that together hold about `images` images: exactly as many parts as full parts of that would take."""
    parts = -(-images // part_images)
    chosen = spans[:parts]
    each, more = divmod(parts, len(chosen))
    return [replace(span, max_parts=each + (number < more)) for number, span in enumerate(chosen)]


def worth_cutting(spans: Sequence[Span], workers: int) -> list[Span]:
    """The spans of big shards, where there are too few spans to keep all workers busy to the end."""
    if workers == 1 or len(spans) >= SPANS_A_WORKER * workers:
        return []
    return [span for span in spans if span.source.kind != "image" and span.stop is None and _is_big(span.source)]


def _is_big(shard: Shard) -> bool:
    return (shard.size or 0) > SHORT_SHARD_BYTES


def cut(span: Span, *, read: ReadOptions, part_images: int, pieces: int, fetch_uri: str | None = None) -> list[Span]:
    """A span that runs to the end of its shard, as up to `pieces` spans that begin where parts begin.

    Tars are walked header by header; in Parquet parts begin at least at every row group.
    `fetch_uri`: where to read it, if its own URI is not enough.
    """
    shard = replace(span.source, secret=fetch_uri)
    store = store_for(shard.fetch_uri)
    try:
        if shard.kind == "tar":
            starts = part_starts(store, shard, read, part_images, PART_BYTES)
        else:
            starts = row_group_starts(store, shard)
    except StorageError:
        return [span]  # whoever labels it says what is wrong with it
    starts = [start for start in starts if start.index > span.first]
    parts = len(starts) + 1
    pieces = min(pieces, parts)
    chosen = [starts[number * parts // pieces - 1] for number in range(1, pieces)]
    stops = [*(start.index for start in chosen), None]
    return [
        replace(span, stop=stops[0]),
        *(
            replace(span, first=start.index, start=start, after=None, stop=stop)
            for start, stop in zip(chosen, stops[1:], strict=True)
        ),
    ]
