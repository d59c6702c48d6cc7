"""What is left: gaps in chains of parts, spans that cover them exactly, and shards cut where parts begin."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run import left
from pipeline.run.left import (
    SPANS_A_WORKER,
    Gap,
    cut,
    gaps,
    is_left,
    limited,
    longest_first,
    plan_file_digest,
    planned_sources,
    remaining_spans,
    shard_digest,
    waves,
    worth_cutting,
)
from pipeline.run.parts import PartName
from pipeline.run.plan import Plan, PlanFile
from pipeline.run.span import Span
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, Shard
from pipeline.shards.parquet import read_parquet
from pipeline.shards.tar import read_tar
from pipeline.storage.local import LocalStore
from tests.support.corpus import parquet_bytes, tar_bytes
from tests.support.images import jpeg

SOURCE = "a" * 24
READ = ReadOptions()


@st.composite
def chains(draw: st.DrawFn, source: str = SOURCE) -> tuple[list[PartName], list[PartName]]:
    """A whole chain of parts, and the parts of it that are committed."""
    sizes = draw(st.lists(st.integers(1, 5), max_size=8))
    if not sizes or draw(st.booleans()):
        sizes.append(0)  # a last part without rows
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    whole = [
        PartName(source, first, rows, first == firsts[-1] and number == len(sizes) - 1)
        for number, (first, rows) in enumerate(zip(firsts, sizes, strict=True))
    ]
    kept = draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
    return whole, sorted(part for part, there in zip(whole, kept, strict=True) if there)


@pytest.mark.parametrize(("rows", "expected"), [((4, 2), False), ((4,), True), ((), True)])
def test_anything_left_is_what_spans_would_say(rows: tuple[int, ...], expected: bool) -> None:
    shard = Shard(uri="/in/a.tar", kind="tar", size=10, version="etag:1")
    parts = [PartName(shard_digest(shard), 4 * number, count, count == 2) for number, count in enumerate(rows)]
    plan, committed = Plan(settings={}, shards={shard.uri: shard}), {shard_digest(shard): parts}
    assert is_left(plan, committed) is expected
    assert bool(remaining_spans(plan, committed, part_images=4, workers=1)) is expected
    assert not is_left(Plan(settings={}), {})


@given(chains())
def test_gaps_are_exactly_what_no_part_covers(chain: tuple[list[PartName], list[PartName]]) -> None:
    whole, committed = chain
    found = list(gaps(committed))
    end = whole[-1].stop
    covered = {index for part in committed for index in range(part.first, part.stop)}
    missing = [index for gap in found for index in range(gap.first, end if gap.stop is None else gap.stop)]
    assert missing == [index for index in range(end) if index not in covered]
    assert (not found) == (committed == whole or (bool(committed) and committed[-1].last and not missing))
    for gap in found:
        assert gap.stop is None or gap.first < gap.stop
        before = [part for part in committed if part.stop == gap.first and part.first < gap.first]
        assert gap.after == (before[-1] if before else None)
    assert [gap.stop is None for gap in found] == [False] * (len(found) - 1) + [not (committed and committed[-1].last)] * bool(
        found
    )


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], [(0, None)]),
        ([(0, 4, False)], [(4, None)]),
        ([(0, 4, True)], []),
        ([(0, 0, True)], []),
        ([(4, 4, False)], [(0, 4), (8, None)]),
        ([(4, 2, True)], [(0, 4)]),
        ([(0, 4, False), (4, 0, True)], []),
        ([(0, 4, False), (0, 6, False), (6, 1, True)], [(4, 6)]),  # two attempts cut differently: still covered once
    ],
)
def test_gaps(parts: list[tuple[int, int, bool]], expected: list[tuple[int, int | None]]) -> None:
    names = sorted(PartName(SOURCE, *part) for part in parts)
    assert [(gap.first, gap.stop) for gap in gaps(names)] == expected


def test_a_gap_names_the_part_before_it() -> None:
    first, third = PartName(SOURCE, 0, 4, False), PartName(SOURCE, 8, 4, False)
    assert list(gaps([first, third])) == [Gap(4, 8, first), Gap(12, None, third)]


# --- spans of a plan ------------------------------------------------------------------------------------------


def _tar(name: str, version: str = "etag:1") -> Shard:
    return Shard(uri=f"/in/{name}.tar", kind="tar", size=10, version=version)


def test_shards_go_on_behind_what_is_committed() -> None:
    plan = Plan(settings={}, shards={shard.uri: shard for shard in (_tar("0"), _tar("1"), _tar("2"))})
    one, two = shard_digest(_tar("1")), shard_digest(_tar("2"))
    committed = {one: [PartName(one, 0, 4, False)], two: [PartName(two, 0, 4, True)], "f" * 24: [PartName("f" * 24, 0, 9, True)]}
    spans = remaining_spans(plan, committed, part_images=4, workers=2)
    assert [(span.source, span.first, span.stop, span.after) for span in spans] == [
        (_tar("0"), 0, None, None),
        (_tar("1"), 4, None, committed[one][0]),
    ]
    assert planned_sources(plan) == {shard_digest(_tar(name)) for name in "012"}


def test_another_version_of_a_shard_is_another_source() -> None:
    assert shard_digest(_tar("0")) != shard_digest(_tar("0", "etag:2"))


@given(
    rows=st.integers(1, 60),
    part_images=st.integers(1, 7),
    workers=st.integers(1, 3),
    kept=st.lists(st.booleans(), min_size=60, max_size=60),
    superseded=st.sets(st.integers(0, 59), max_size=5),
)
def test_every_row_of_a_plan_file_is_in_one_span_or_part(
    rows: int, part_images: int, workers: int, kept: list[bool], superseded: set[int]
) -> None:
    file = PlanFile(3, True, rows)
    replaced = sorted(row for row in superseded if row < rows)
    plan = Plan(settings={}, files=[PlanFile(0, False, 9), file], superseded={3: replaced} if replaced else {})
    digest = plan_file_digest(file)
    parts = [
        PartName(digest, first, min(part_images, rows - first), first + part_images >= rows)
        for first in range(0, rows, part_images)
    ]
    committed = [part for part, there in zip(parts, kept, strict=False) if there]
    spans = remaining_spans(plan, {digest: committed}, part_images=part_images, workers=workers)
    uncovered = [row for span in spans for row in range(span.first, span.stop or 0)]
    assert sorted(uncovered + [row for part in committed for row in range(part.first, part.stop)]) == list(range(rows))
    for span in spans:
        assert span.first % part_images == 0
        assert span.start == Cursor(span.first)
        assert span.ends == (span.stop == rows)
        assert span.superseded == tuple(row for row in replaced if span.first <= row < (span.stop or 0))
        assert Span.from_json(span.to_json()) == span
    assert planned_sources(plan) == {digest}


def test_many_single_images_make_enough_spans_for_all_workers_and_not_many_more() -> None:
    plan = Plan(settings={}, files=[PlanFile(0, True, 100_000)])
    spans = remaining_spans(plan, {}, part_images=10, workers=4)
    assert 4 * SPANS_A_WORKER <= len(spans) <= 2 * 4 * SPANS_A_WORKER


# --- cutting --------------------------------------------------------------------------------------------------


def _span(path: Path, kind: str, **changed: object) -> Span:
    source = Shard(uri=str(path), kind=kind, size=path.stat().st_size, version=None)  # type: ignore[arg-type]
    return Span(source=source, digest=SOURCE, first=0, stop=None, **changed)  # type: ignore[arg-type]


def _images(span: Span) -> list[EncodedImage]:
    reader = read_tar if span.source.kind == "tar" else read_parquet
    found = reader(LocalStore(), span.source, span.start or Cursor(), READ)
    return [image for image in found if span.stop is None or image.index < span.stop]


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


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 5, 7, 15, 100])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_pieces_cover_the_shard_and_begin_where_parts_do(kind: str, pieces: int, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    whole = _span(path, kind)
    spans = cut(whole, read=READ, part_images=4, pieces=pieces)
    boundaries = range(0, 60, 4) if kind == "tar" else range(0, 60, 7)
    assert len(spans) == min(pieces, len(boundaries))
    assert {span.first for span in spans} <= set(boundaries)
    assert [span.stop for span in spans] == [*(span.first for span in spans[1:]), None]
    assert [(image.index, image.data, str(image.error)) for span in spans for image in _images(span)] == [
        (image.index, image.data, str(image.error)) for image in _images(whole)
    ]
    sizes = [(span.stop or 60) - span.first for span in spans]
    assert max(sizes) - min(sizes) <= 2 * (boundaries.step)


def test_a_span_that_goes_on_is_cut_behind_what_is_committed(tar: Path) -> None:
    after = PartName(SOURCE, 0, 20, False, 20)
    span = Span(source=_span(tar, "tar").source, digest=SOURCE, first=20, stop=None, after=after)
    spans = cut(span, read=READ, part_images=4, pieces=2)
    assert [(piece.first, piece.stop, piece.after) for piece in spans] == [(20, 40, after), (40, None, None)]
    assert spans[0].start is None
    assert spans[1].start is not None
    assert spans[1].start.index == 40


def test_the_last_part_is_left_whole(tar: Path) -> None:
    span = Span(source=_span(tar, "tar").source, digest=SOURCE, first=56, stop=None)
    assert cut(span, read=READ, part_images=4, pieces=8) == [span]


def test_where_to_read_a_shard_is_for_reading_only(tar: Path, tmp_path: Path) -> None:
    span = Span(source=replace(_span(tar, "tar").source, uri=str(tmp_path / "unsigned.tar")), digest=SOURCE, first=0, stop=None)
    spans = cut(span, read=READ, part_images=4, pieces=2, fetch_uri=str(tar))
    assert [piece.source for piece in spans] == [span.source] * 2


def test_a_shard_that_cannot_be_opened_is_left_to_its_worker(tmp_path: Path) -> None:
    gone = Span(
        source=Shard(uri=str(tmp_path / "gone.tar"), kind="tar", size=100, version=None), digest=SOURCE, first=0, stop=None
    )
    assert cut(gone, read=READ, part_images=4, pieces=8) == [gone]


def test_waves_are_all_that_is_left_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "WAVE_SPANS", 4)
    monkeypatch.setattr(left, "WAVE_SPANS_A_WORKER", 3)
    shards = [Shard(uri=f"/in/{number}.tar", kind="tar", size=10, version="etag:1") for number in range(10)]
    plan = Plan(settings={}, shards={shard.uri: shard for shard in shards})
    for workers, sizes in ((1, [4, 4, 2]), (2, [6, 4])):
        found = list(waves(plan, {}, part_images=4, workers=workers))
        assert [len(wave) for wave in found] == sizes
        assert [span for wave in found for span in wave] == remaining_spans(plan, {}, part_images=4, workers=workers)
        turned = [span for wave in waves(plan, {}, part_images=4, workers=workers, begin=0.35) for span in wave]
        assert turned == [*(spans := [span for wave in found for span in wave])[3:], *spans[:3]]
    assert list(waves(Plan(settings={}), {}, part_images=4, workers=1)) == []


def test_few_spans_go_longest_first_and_many_as_they_are() -> None:
    tar = Shard(uri="/in/a.tar", kind="tar", size=30_000_000, version="etag:1")
    images = Shard(uri="plan/00000.parquet", kind="image", size=None, version=None)
    whole = Span(source=tar, digest="a", first=0, stop=None)  # about 300
    rest, piece = replace(whole, first=250), replace(whole, first=100, stop=256)
    rows = Span(source=images, digest="b", first=0, stop=512)
    assert longest_first([rest, piece, whole, rows], 2) == [rows, whole, piece, rest]
    many = [rest, piece, whole, rows] * 17
    assert longest_first(many, 2) == many


def test_worth_cutting_is_what_is_big_while_there_is_little() -> None:
    big, small = (
        Span(source=Shard(uri=name, kind="tar", size=size, version=None), digest=SOURCE, first=0, stop=None)
        for name, size in (("big", 1 << 30), ("small", 1 << 20))
    )
    image = Span(source=Shard(uri="plan", kind="image", size=1 << 30, version=None), digest=SOURCE, first=0, stop=None)
    within = Span(source=big.source, digest=SOURCE, first=0, stop=8)
    assert worth_cutting([big, small, image, within], 2) == [big]
    assert worth_cutting([big], 1) == []
    assert worth_cutting([big] * 2 * SPANS_A_WORKER, 2) == []


@given(count=st.integers(1, 40), images=st.integers(1, 500), part_images=st.integers(1, 50))
def test_limited_takes_as_many_parts_as_the_limit_needs(count: int, images: int, part_images: int) -> None:
    span = Span(source=_tar("0"), digest=SOURCE, first=0, stop=None)
    chosen = limited([span] * count, images, part_images)
    parts = [piece.max_parts or 0 for piece in chosen]
    assert min(parts) >= 1
    assert max(parts) - min(parts) <= 1
    assert (sum(parts) - 1) * part_images < images <= sum(parts) * part_images
