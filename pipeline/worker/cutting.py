"""In what order spans go to the workers, and big shards as pieces, so that all workers end together."""

import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice

from pipeline.errors import MaskfleetError
from pipeline.output.footer import read_footer
from pipeline.output.parts import PART_BYTES
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.parquet import row_group_starts
from pipeline.shards.tar import part_starts
from pipeline.storage import store_for, writable_store_for
from pipeline.worker.prefetch import ReadAhead

SHORT_SHARD_BYTES = 8 << 20  # not worth cutting
LONG = 8  # times a span goes into a worker's share of the whole, or fewer: then it is long
_PIECES_A_WORKER = 8
_ORDERED = 4 * LONG  # what is shorter than this part of a worker's share may come last without being waited for
_IMAGE_BYTES = 100_000  # about; only to compare spans
_MIN_MEMBER_BYTES = 1024  # of a tar: a header and one block
_WALKS = 4  # shards that are looked into at once
_PIECES_AHEAD = 1_000  # of one of them

log = logging.getLogger(__name__)


def in_order(spans: Sequence[Span], workers: int) -> list[Span]:
    """The spans as they should go to so many workers: long ones first; then those that are short; then those to be cut, marked.

    Cut are as few of the long shards as are needed to keep every worker busy while any worker labels the longest of the others:
    the pieces fill the end.
    """
    sizes = [weight(span) for span in spans]
    cut = _to_cut(spans, sizes, workers)
    cut_bytes = sum(sizes[number] for number in cut)
    marked = set(cut)
    short = sum(sizes) / (_ORDERED * workers)
    whole = [number for number in range(len(spans)) if number not in marked]
    whole.sort(key=lambda number: -sizes[number] if sizes[number] > short else 0.0)  # short ones as they are
    piece_bytes = max(1, round(cut_bytes / (_PIECES_A_WORKER * workers)))
    return [spans[number] for number in whole] + [replace(spans[number], piece_bytes=piece_bytes) for number in cut]


def _to_cut(spans: Sequence[Span], sizes: Sequence[float], workers: int) -> list[int]:
    """Numbers of the spans to cut, the longest first."""
    if workers == 1:
        return []
    long = max(SHORT_SHARD_BYTES, sum(sizes) / (LONG * workers))
    longest = sorted(range(len(spans)), key=lambda number: -sizes[number])
    whole = max((sizes[number] for number in longest if spans[number].source.kind == "image"), default=0.0)
    chosen: list[int] = []
    cut_bytes = 0.0
    for number in longest:
        if spans[number].source.kind == "image":
            continue
        if cut_bytes >= workers * max(whole, sizes[number]) or sizes[number] <= long:
            break
        chosen.append(number)
        cut_bytes += sizes[number]
    return chosen


def weight(span: Span) -> float:
    """About the bytes that are left of it. What a shard still holds behind its first parts nobody knows: half of it at least."""
    size = span.source.size or 0
    if span.stop is None:
        return max(size - span.first * _IMAGE_BYTES, size / 2 if span.first else size)
    images = (span.stop - span.first) * _IMAGE_BYTES
    return images if span.source.kind == "image" else min(images, size)


def limited(spans: Sequence[Span], images: int, part_images: int, workers: int) -> list[Span]:
    """Spans that together hold about `images` images: exactly as many parts as full parts of that would take.

    Big tars are marked to be cut part by part where there are fewer of them than workers.
    """
    parts = -(-images // part_images)
    chosen = spans[:parts]
    each, more = divmod(parts, len(chosen))
    found = [replace(span, max_parts=each + (number < more)) for number, span in enumerate(chosen)]
    if workers == 1 or len(found) >= LONG * workers:
        return found
    return [replace(span, piece_bytes=1) if span.max_parts != 1 and _is_big_tar(span.source) else span for span in found]


def _is_big_tar(shard: SourceObject) -> bool:
    return shard.kind == "tar" and (shard.size or 0) > SHORT_SHARD_BYTES


def most_at_once(spans: Sequence[Span], part_images: int) -> int:
    """How many workers can be at work: one a span; of those that are to be cut one a part, whose images take 1 KiB at least."""
    return sum(
        1 if span.piece_bytes is None else 1 + (span.source.size or 0) // (_MIN_MEMBER_BYTES * part_images) for span in spans
    )


def all_pieces(spans: Iterable[Span], *, read: ReadOptions, part_images: int, output: str) -> Iterator[Span]:
    """The spans in their order; of those that are marked the pieces, of some at once and in turn, as they are found.

    The same every time: Ray repeats what was lost of it by position.
    """
    waiting = iter(spans)
    for span in waiting:
        if span.piece_bytes is not None:
            waiting = chain((span,), waiting)
            break
        yield span
    turns: deque[ReadAhead[Span]] = deque()
    try:
        while True:
            for span in islice(waiting, _WALKS - len(turns)):
                found = pieces(span, read=read, part_images=part_images, output=output)
                turns.append(ReadAhead(found, _PIECES_AHEAD))
            if not turns:
                return
            walk = turns.popleft()
            piece = next(walk, None)
            if piece is not None:
                turns.append(walk)
                yield piece
    finally:
        for walk in turns:
            walk.close()


def pieces(span: Span, *, read: ReadOptions, part_images: int, output: str) -> Iterator[Span]:
    """A span as pieces of about `piece_bytes` that begin where parts begin; they are small at first, and at the end.

    Of a shard whose headers cannot be read any further the last piece is all that is left: whoever labels it says what is wrong.
    """
    rest, piece_bytes = replace(span, piece_bytes=None), span.piece_bytes
    if piece_bytes is None:
        yield rest
        return
    try:
        start = beginning(span, output)
        with closing(_starts(span.source, read, part_images, start)) as starts:
            _, first = next(starts, (start, 0))  # none where a tar ends before it
            size, begun = max(1, (span.source.size or 0) - first), first
            for parts, (cursor, at) in enumerate(starts, 1):
                if span.stop is not None and cursor.index >= span.stop:
                    break
                enough = parts == span.max_parts
                share = _PIECES_A_WORKER * min(at - first, first + size - at) / size
                if enough or at - begun >= piece_bytes * min(1.0, share):
                    yield replace(rest, stop=cursor.index, max_parts=None)
                    more = None if span.max_parts is None else span.max_parts - parts
                    rest, begun = replace(rest, first=cursor.index, start=cursor, previous=None, max_parts=more), at
                if enough:
                    return
    except MaskfleetError as error:
        log.warning("%s is not cut any further: %s", span.source.uri, error)
    yield rest


def beginning(span: Span, output: str) -> Cursor:
    """Where a span begins: as it says, or as the footer of the part before it does. Raises `StorageError`, `Damaged`."""
    if span.start is not None:
        return span.start
    return Cursor() if span.previous is None else read_footer(writable_store_for(output), output, span.previous).after


def _starts(shard: SourceObject, read: ReadOptions, part_images: int, start: Cursor) -> Generator[tuple[Cursor, int]]:
    """Where parts begin, and at what byte, from `start` on. Parquet: where row groups do, as parts begin there at least."""
    store = store_for(shard.fetch_uri)
    if shard.kind == "tar":
        for cursor in part_starts(store, shard, read, part_images, PART_BYTES, start):
            yield cursor, cursor.offset or 0
        return
    groups = row_group_starts(store, shard)
    behind = [at for cursor, at in groups if cursor.index <= start.index]
    yield start, behind[-1] if behind else 0
    yield from ((cursor, at) for cursor, at in groups if cursor.index > start.index)
