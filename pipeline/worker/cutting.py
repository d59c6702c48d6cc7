"""The order in which spans go to the workers, and big shards cut into pieces, so that all workers end together."""

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

SHORT_SHARD_BYTES = 8 << 20  # a shorter shard is not worth cutting
LONG = 8  # a span is long if it is more than 1/8 of a worker's share of all bytes
_PIECES_A_WORKER = 8
_ORDERED = 4 * LONG  # spans below 1/32 of a worker's share are not sorted by size: nobody waits long for the last of them
_IMAGE_BYTES = 100_000  # a rough size, only to compare spans
_MIN_MEMBER_BYTES = 1024  # the smallest member of a tar: a header and one block
_WALKS = 4  # so many shards are searched for cuts at once
_PIECES_AHEAD = 1_000  # pieces of one shard that wait to be sent

log = logging.getLogger(__name__)


def in_order(spans: Sequence[Span], workers: int) -> list[Span]:
    """The spans in the order in which they should go to so many workers: long spans, short spans, then spans to be cut, marked.

    As few long shards as possible are cut. Their pieces come last and must keep all other workers busy while one worker labels
    the longest span that is not cut.
    """
    sizes = [weight(span) for span in spans]
    cut = _to_cut(spans, sizes, workers)
    cut_bytes = sum(sizes[number] for number in cut)
    marked = set(cut)
    short = sum(sizes) / (_ORDERED * workers)
    whole = [number for number in range(len(spans)) if number not in marked]
    whole.sort(key=lambda number: -sizes[number] if sizes[number] > short else 0.0)  # short spans keep their order
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
    """About how many bytes of a span remain. For a shard whose first parts are there, at least half of its bytes is assumed."""
    size = span.source.size or 0
    if span.stop is None:
        return max(size - span.first * _IMAGE_BYTES, size / 2 if span.first else size)
    images = (span.stop - span.first) * _IMAGE_BYTES
    return images if span.source.kind == "image" else min(images, size)


def limited(spans: Sequence[Span], images: int, part_images: int, workers: int) -> list[Span]:
    """The first spans, limited to as many parts as `images` images fill.

    If there are fewer than `LONG` spans per worker, big tars are marked to be cut part by part.
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
    """How many workers can work at once: one per span; one per part of a span to be cut, at 1 KiB or more per image."""
    return sum(
        1 if span.piece_bytes is None else 1 + (span.source.size or 0) // (_MIN_MEMBER_BYTES * part_images) for span in spans
    )


def all_pieces(spans: Iterable[Span], *, read: ReadOptions, part_images: int, output: str) -> Iterator[Span]:
    """The spans in their order. From the first marked span on, spans come as pieces, from some spans at once and in turn.

    The order is the same in each call: Ray makes lost items again and finds them by position.
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
    """A span as pieces of about `piece_bytes`, each of which begins where a part begins. The first and last pieces are small.

    If the headers of a shard cannot be read any further, the last piece is all that remains: the worker that labels this piece
    reports the error.
    """
    rest, piece_bytes = replace(span, piece_bytes=None), span.piece_bytes
    if piece_bytes is None:
        yield rest
        return
    try:
        start = beginning(span, output)
        with closing(_starts(span.source, read, part_images, start)) as starts:
            _, first = next(starts, (start, 0))  # a tar that ends before `start` has no starts
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
    """Where a span begins: its `start`, or what the footer of the part before says. Raises `StorageError`, `Damaged`."""
    if span.start is not None:
        return span.start
    return Cursor() if span.previous is None else read_footer(writable_store_for(output), output, span.previous).after


def _starts(shard: SourceObject, read: ReadOptions, part_images: int, start: Cursor) -> Generator[tuple[Cursor, int]]:
    """Where parts begin, and at what byte, from `start` on. For Parquet: where row groups begin; a part begins at each."""
    store = store_for(shard.fetch_uri)
    if shard.kind == "tar":
        for cursor in part_starts(store, shard, read, part_images, PART_BYTES, start):
            yield cursor, cursor.offset or 0
        return
    groups = row_group_starts(store, shard)
    behind = [at for cursor, at in groups if cursor.index <= start.index]
    yield start, behind[-1] if behind else 0
    yield from ((cursor, at) for cursor, at in groups if cursor.index > start.index)
