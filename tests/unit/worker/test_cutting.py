"""Which shards are cut, in what order spans go, and pieces that begin where parts begin."""

import heapq
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.parts import PartName
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
from pipeline.shards.tar import read_tar
from pipeline.storage.local import LocalStore
from pipeline.worker import cutting
from pipeline.worker.cutting import all_pieces, in_order, limited, most_at_once, pieces, weight
from tests.support.corpus import cut_in_body, parquet_bytes, tar_bytes
from tests.support.images import jpeg
from tests.support.memory import MemoryStore

SOURCE = "a" * 24
READ = ReadOptions()
MIB = 1 << 20


def _shard(size: float, name: str = "a") -> Span:
    source = SourceObject(uri=f"/in/{name}.tar", kind="tar", size=round(size), version="etag:1")
    return Span(source=source, digest=SOURCE, first=0, stop=None)


def _rows(images: int) -> Span:
    return Span(
        source=SourceObject(uri="plan/00000.parquet", kind="image", size=None, version=None), digest=SOURCE, first=0, stop=images
    )


def _cut(spans: Sequence[Span], workers: int) -> list[Span]:
    return [span for span in in_order(spans, workers) if span.piece_bytes is not None]


# --- which, and in what order ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "workers", "cut"),
    [
        ([3000] * 400, 64, range(60, 70)),
        ([3000] * 2, 64, range(2, 3)),
        ([3000] * 1000, 64, range(1)),
        ([10] * 1000, 64, range(1)),
        ([50_000, *[100] * 1000], 64, range(1, 2)),
        ([3000] * 10, 2, range(2, 3)),
        ([3000] * 3, 1, range(1)),
        ([6], 64, range(1)),
        ([3000] * 64, 64, range(64, 65)),
    ],
)
def test_as_few_are_cut_as_keep_all_workers_busy(sizes: list[int], workers: int, cut: range) -> None:
    spans = [_shard(size * MIB, str(number)) for number, size in enumerate(sizes)]
    assert len(_cut(spans, workers)) in cut
    assert {replace(span, piece_bytes=None) for span in in_order(spans, workers)} == set(spans)


def test_single_images_are_not_cut_and_may_be_what_others_are_cut_for() -> None:
    spans = [_shard(100 * MIB), *[_rows(2_000)] * 3]
    assert _cut(spans, 2) == [replace(spans[0], piece_bytes=100 * MIB // 16)]
    assert _cut([_rows(1_000_000)], 4) == []


def test_long_ones_go_first_then_short_ones_as_they_are_then_those_to_be_cut() -> None:
    short = [_shard((1 + number % 3) * MIB, f"s{number}") for number in range(1000)]
    long, longer, giant = _shard(240 * MIB, "long"), _shard(250 * MIB, "longer"), _shard(4000 * MIB, "giant")
    found = in_order([*short[:500], long, giant, longer, *short[500:]], 2)
    assert [replace(span, piece_bytes=None) for span in found] == [longer, long, *short, giant]


def test_what_is_left_of_a_shard_is_not_taken_for_nothing() -> None:
    whole = _shard(1000 * MIB)
    assert weight(whole) == 1000 * MIB
    assert weight(replace(whole, first=1000)) == 1000 * MIB - 100_000_000
    assert weight(replace(whole, first=1_000_000)) == 500 * MIB  # small images: nobody knows how many more
    assert weight(replace(whole, first=10, stop=20)) == 1_000_000
    assert weight(replace(whole, first=0, stop=1_000_000)) == 1000 * MIB
    assert weight(_rows(7)) == 700_000


def _ends(sizes: Sequence[float], workers: int) -> list[float]:
    """When each worker ends; each takes the next one when it is done, as far as sizes are times."""
    busy = [0.0] * workers
    for size in sizes:
        heapq.heapreplace(busy, busy[0] + size)
    return busy


@given(
    sizes=st.lists(st.one_of(st.integers(1, 100), st.integers(100, 5_000)), min_size=1, max_size=300),
    workers=st.integers(2, 40),
)
def test_all_workers_end_together(sizes: list[int], workers: int) -> None:
    """In no order would they end much sooner; parts are small here."""
    ordered = in_order([_shard(size * MIB, str(number)) for number, size in enumerate(sizes)], workers)
    taken = [size for span in ordered for size in _pieces_of(span)]
    total = sum(map(weight, ordered))
    assert max(_ends(taken, workers)) <= 1.13 * total / workers + cutting.SHORT_SHARD_BYTES


def _pieces_of(span: Span) -> list[float]:
    size = weight(span)
    if span.piece_bytes is None:
        return [size]
    count = max(1, -(-round(size) // span.piece_bytes))
    return [size / count] * count


def test_the_barrier_between_waves_costs_little() -> None:
    """A wave of 20,000 shards, one of them 1,000 times as long: who comes to its end waits under a hundredth of it."""
    shards = [_shard(30 * MIB, str(number)) for number in range(20_000)]
    shards[19_990] = _shard(30_000 * MIB, "giant")
    wave = [size for span in in_order(shards, 64) for size in _pieces_of(span)]
    ends = _ends(wave, 64)
    assert max(ends) / (sum(wave) / 64) < 1.01
    straggler = _ends([weight(span) for span in shards], 64)  # as they are: one holds the others
    assert max(straggler) / (sum(wave) / 64) > 2


@given(count=st.integers(1, 40), images=st.integers(1, 500), part_images=st.integers(1, 50))
def test_limited_takes_as_many_parts_as_the_limit_needs(count: int, images: int, part_images: int) -> None:
    chosen = limited([_shard(10)] * count, images, part_images, 2)
    parts = [piece.max_parts or 0 for piece in chosen]
    assert min(parts) >= 1
    assert max(parts) - min(parts) <= 1
    assert (sum(parts) - 1) * part_images < images <= sum(parts) * part_images


def test_the_parts_of_a_limit_are_shared_out_where_tars_are_few() -> None:
    big = _shard(100 * MIB)
    assert [span.piece_bytes for span in limited([big] * 2, 100, 4, 2)] == [1, 1]
    assert [span.piece_bytes for span in limited([big] * 2, 100, 4, 1)] == [None, None]
    assert [span.piece_bytes for span in limited([big] * 2, 8, 4, 2)] == [None, None]  # a part each
    assert [span.piece_bytes for span in limited([_shard(MIB)], 100, 4, 2)] == [None]


def test_no_more_workers_than_there_can_be_parts() -> None:
    whole, cut = _shard(9 * MIB), replace(_shard(9 * MIB), piece_bytes=1)
    assert most_at_once([whole] * 3, 256) == 3
    assert most_at_once([whole, cut], 256) == 1 + 37


# --- pieces ---------------------------------------------------------------------------------------------------


def _span(path: Path, kind: str, piece_bytes: int | None = None) -> Span:
    source = SourceObject(uri=str(path), kind=kind, size=path.stat().st_size, version=None)  # type: ignore[arg-type]
    return Span(source=source, digest=SOURCE, first=0, stop=None, piece_bytes=piece_bytes)


def _images(span: Span) -> list[EncodedImage]:
    reader = read_tar if span.source.kind == "tar" else read_parquet
    found = reader(LocalStore(), span.source, span.start or Cursor(), READ)
    return [image for image in found if span.stop is None or image.index < span.stop]


def _pieces(span: Span, output: str = "/none") -> list[Span]:
    return list(pieces(span, read=READ, part_images=4, output=output))


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(tar_bytes([(f"{number // 2:03}.{'png' if number == 31 else 'jpg'}", jpeg()) for number in range(60)]))
    return path


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    path.write_bytes(parquet_bytes([str(number).encode() for number in range(60)], row_group_rows=7))
    return path


@pytest.mark.parametrize("share", [1, 2, 5, 1000])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_pieces_cover_the_shard_and_begin_where_parts_do(kind: str, share: int, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    whole = _span(path, kind, path.stat().st_size // share)
    spans = _pieces(whole)
    boundaries = range(0, 60, 4) if kind == "tar" else range(0, 60, 7)
    assert {span.first for span in spans} <= set(boundaries)
    assert [span.stop for span in spans] == [*(span.first for span in spans[1:]), None]
    assert [(image.index, image.data, str(image.error)) for span in spans for image in _images(span)] == [
        (image.index, image.data, str(image.error)) for image in _images(whole)
    ]
    assert {span.piece_bytes for span in spans} == {None}
    if share == 1000:
        assert len(spans) == len(boundaries)
    if share == 5:
        sizes = [(span.stop or 60) - span.first for span in spans]
        assert min(sizes[0], sizes[-1]) < max(sizes)  # small at first, so that all workers soon have one, and at the end


def test_a_span_that_is_not_marked_is_whole(tar: Path) -> None:
    assert _pieces(_span(tar, "tar")) == [_span(tar, "tar")]


def test_a_span_that_goes_on_is_cut_behind_what_is_committed(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (*_, twentieth) = (image.after for image in _images(_span(tar, "tar"))[:20])
    assert twentieth.index == 20
    monkeypatch.setattr(cutting, "beginning", lambda _span, _output: twentieth)
    after = PartName(SOURCE, 0, 20, False, 20)
    span = Span(source=_span(tar, "tar").source, digest=SOURCE, first=20, stop=None, previous=after, piece_bytes=1)
    found = _pieces(span)
    assert [(piece.first, piece.stop, piece.previous) for piece in found[:2]] == [(20, 24, after), (24, 28, None)]
    assert found[0].start is None
    assert found[1].start is not None
    assert found[1].start.index == 24
    assert found[-1].stop is None


def test_a_hole_is_cut_up_to_its_end(tar: Path) -> None:
    (start,) = (piece.start for piece in _pieces(_span(tar, "tar", 1)) if piece.first == 20)
    hole = replace(_span(tar, "tar", 1), first=20, start=start, stop=32)
    assert [(piece.first, piece.stop) for piece in _pieces(hole)] == [(20, 24), (24, 28), (28, 32)]


def test_a_limit_ends_the_pieces(tar: Path) -> None:
    found = _pieces(replace(_span(tar, "tar", 1), max_parts=3))
    assert [(piece.first, piece.stop, piece.max_parts) for piece in found] == [(0, 4, None), (4, 8, None), (8, 12, None)]
    found = _pieces(replace(_span(tar, "tar", 1), max_parts=100))
    assert (found[-1].first, found[-1].stop, found[-1].max_parts) == (56, None, 86)


def test_the_last_part_is_left_whole(tar: Path) -> None:
    (start,) = (piece.start for piece in _pieces(_span(tar, "tar", 1)) if piece.first == 56)
    last = replace(_span(tar, "tar", 1), first=56, start=start)
    assert _pieces(last) == [replace(last, piece_bytes=None)]


def test_where_to_read_a_shard_goes_with_its_pieces(tar: Path, tmp_path: Path) -> None:
    source = replace(_span(tar, "tar").source, uri=str(tmp_path / "unsigned.tar"), secret=str(tar))
    found = _pieces(Span(source=source, digest=SOURCE, first=0, stop=None, piece_bytes=1))
    assert [piece.source for piece in found] == [source] * 15
    assert str(tar) not in repr(found)


def test_a_shard_that_cannot_be_opened_is_left_to_its_worker(tmp_path: Path) -> None:
    source = SourceObject(uri=str(tmp_path / "gone.tar"), kind="tar", size=100, version=None)
    gone = Span(source=source, digest=SOURCE, first=0, stop=None, piece_bytes=1)
    assert _pieces(gone) == [replace(gone, piece_bytes=None)]


def test_a_shard_that_cannot_be_read_to_its_end_is_cut_so_far(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _pieces(_span(tar, "tar", 1))
    at = whole[9].start
    assert at is not None
    store = MemoryStore(tar.read_bytes(), range(at.offset or 0, tar.stat().st_size))
    monkeypatch.setattr(cutting, "store_for", lambda _uri: store)
    found = _pieces(_span(tar, "tar", 1))
    assert 1 < len(found) <= 10
    assert found[:-1] == whole[: len(found) - 1]
    assert found[-1] == replace(whole[len(found) - 1], stop=None)


def test_a_tar_that_breaks_off_is_cut_up_to_the_break(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(cut_in_body(tar_bytes([(f"{number:03}.jpg", jpeg()) for number in range(60)]), 30))
    found = _pieces(_span(path, "tar", 1))
    assert [piece.first for piece in found] == list(range(0, 30, 4))
    assert found[-1].stop is None


def test_a_tar_that_ends_before_its_span_is_left_to_its_worker(tar: Path) -> None:
    span = replace(_span(tar, "tar", 1), first=100, start=Cursor(100))
    assert _pieces(span) == [replace(span, piece_bytes=None)]


def test_pieces_come_in_turn_behind_what_is_whole_and_the_same_every_time(tar: Path, parquet: Path) -> None:
    spans = [_span(parquet, "parquet"), *[_span(tar, "tar", 1), _span(parquet, "parquet", 1)] * 3]
    found = list(all_pieces(spans, read=READ, part_images=4, output="/none"))
    assert found[0] == spans[0]
    assert [(piece.source.kind, piece.first) for piece in found[1:5]] == [("tar", 0), ("parquet", 0)] * 2
    assert [(piece.source.kind, piece.first) for piece in found[5:9]] == [("tar", 4), ("parquet", 7)] * 2
    assert len(found) == 1 + 3 * (15 + 9)
    assert found == list(all_pieces(spans, read=READ, part_images=4, output="/none"))


def test_the_first_piece_waits_for_no_whole_walk(tar: Path) -> None:
    """A feed that is not listened to any more leaves no thread behind."""
    before = threading.active_count()
    walk = all_pieces([_span(tar, "tar", 1)] * 5, read=READ, part_images=4, output="/none")
    assert next(walk).first == 0
    walk.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
