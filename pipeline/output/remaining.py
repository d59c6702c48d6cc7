"""What remains to be labelled: the plan minus the committed parts, as spans."""

from bisect import bisect_left
from collections.abc import Collection, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from pipeline.output.parts import PartName, PartTable, source_digest
from pipeline.output.span import Secrets, Span
from pipeline.plan.plan import Plan, PlanFile
from pipeline.shards.base import Cursor, SourceObject

T = TypeVar("T")
Committed = Mapping[str, Sequence[PartName]]
SPANS_A_WORKER = 8  # enough spans per worker, so that all workers end at about one time
SPANS_AHEAD = 2  # per worker: one span that it labels, one that waits
WAVE_SPANS, WAVE_SPANS_A_WORKER = 100_000, 500  # the larger one counts; a span takes about a kilobyte in the driver


@dataclass(frozen=True, slots=True)
class Gap:
    """Indices `first` to `stop` (None: the end) of a source that no part covers. previous: the part before the gap."""

    first: int
    stop: int | None
    previous: PartName | None


def gaps(parts: Sequence[PartName]) -> Iterator[Gap]:
    """The gaps between the parts of a source, and the gap after them if none of them is the last."""
    expected, previous = 0, None
    for part in parts:
        if part.first > expected:
            yield Gap(expected, part.first, previous)
        if part.first >= expected:
            expected, previous = part.stop, part
    if previous is None or not previous.last:
        yield Gap(expected, None, previous)


def plan_file_digest(file: PlanFile) -> str:
    """The digest that names the parts of a plan file's single images."""
    return source_digest(file.name, None, None)


def shard_digest(shard: SourceObject) -> str:
    """The digest that names the parts of a shard."""
    return source_digest(shard.uri, shard.size, shard.version)


def planned_sources(plan: Plan) -> KeysView[str]:
    """The digests of all sources that count, in the order of the plan. They are kept until the plan grows: a million take 6 s."""
    size = len(plan.files), len(plan.shards)
    if plan.sources is None or plan.sources[0] != size:
        shards = (shard_digest(shard) for shard in plan.shards.values())
        plan.sources = size, dict.fromkeys(chain(shards, (plan_file_digest(file) for file in plan.files if file.images)))
    return plan.sources[1].keys()


def image_count(plan: Plan, committed: PartTable) -> int:
    """How many images the committed parts hold. Rows that a later plan file replaces are covered by parts, but do not count."""
    count = committed.row_count
    for file in (file for file in plan.files if file.images and plan.superseded.get(file.number)):
        rows, parts = np.unique(plan.superseded[file.number]), committed.get(plan_file_digest(file), [])
        ends = np.array([(part.first, part.stop) for part in parts], np.int64).reshape(-1, 2)
        count -= int(np.diff(np.searchsorted(rows, ends), axis=1).sum())
    return count


def remaining_spans(plan: Plan, committed: Committed, *, part_images: int, workers: int) -> list[Span]:
    """All spans that remain, in the order of the plan."""
    return list(_spans(plan, committed, part_images, workers))


def waves(
    plan: Plan, committed: Committed, *, part_images: int, workers: int, begin: float = 0.0, secrets: Secrets | None = None
) -> Iterator[list[Span]]:
    """All spans that remain, in waves: a million spans at once took 50 s and 800 MB in the driver.

    begin: place in the plan to begin at, 0 to 1; what lies before this place comes last. Two attempts with different places
    meet late.
    secrets: each span gets the secrets of its own rows. A wave also ends after so many rows with secrets as it may have spans.
    """
    spans = _spans(plan, committed, part_images, workers, begin)
    size = max(WAVE_SPANS, WAVE_SPANS_A_WORKER * workers)
    wave: list[Span] = []
    held = 0
    for span in spans if secrets is None else secrets.given(spans):
        wave.append(span)
        held += max(1, len(span.secrets))
        if held >= size:
            yield wave
            wave, held = [], 0
    if wave:
        yield wave


def has_remaining(plan: Plan, committed: PartTable) -> bool:
    """Does anything remain? The shards are checked all at once: one after another, a million shards take 25 s."""
    images = [file for file in plan.files if file.images]
    shards = planned_sources(plan) - {plan_file_digest(file) for file in images}
    done = 0
    for source, whole, overlaps in zip(committed, *(flags.tolist() for flags in committed.chains()), strict=True):
        if (whole or overlaps) and source in shards:
            done += whole or not any(True for _ in gaps(committed[source]))
    return done < len(shards) or any(True for file in images for _ in _image_spans(file, plan, committed, max(1, file.rows)))


def _turned(items: Collection[T], begin: float) -> Iterator[T]:
    first = int(len(items) * begin)
    return chain(islice(items, first, None), islice(items, first))


def _spans(plan: Plan, committed: Committed, part_images: int, workers: int, begin: float = 0.0) -> Iterator[Span]:
    for shard in _turned(plan.shards.values(), begin):
        digest = shard_digest(shard)
        for gap in gaps(committed.get(digest, ())):
            yield Span(source=shard, digest=digest, first=gap.first, stop=gap.stop, previous=gap.previous)
    images = [file for file in plan.files if file.images]
    parts_a_span = max(1, sum(file.rows for file in images) // part_images // (workers * SPANS_A_WORKER))
    for file in images:
        yield from _turned(list(_image_spans(file, plan, committed, parts_a_span * part_images)), begin)


def _image_spans(file: PlanFile, plan: Plan, committed: Committed, rows_a_span: int) -> Iterator[Span]:
    digest = plan_file_digest(file)
    source = SourceObject(uri=file.name, kind="image", size=None, version=None)
    superseded = sorted(plan.superseded.get(file.number, ()))  # may hold every row
    for gap in gaps(committed.get(digest, ())):
        end = file.rows if gap.stop is None else gap.stop
        for first in range(gap.first, end, rows_a_span):
            stop = min(first + rows_a_span, end)
            yield Span(
                source=source, digest=digest, first=first, stop=stop, ends=stop == file.rows, start=Cursor(first),
                superseded=tuple(superseded[bisect_left(superseded, first) : bisect_left(superseded, stop)]),
            )  # fmt: skip
