"""What is left: gaps in chains of parts, and spans that cover them exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output import remaining as left
from pipeline.output.parts import PartName, PartTable
from pipeline.output.remaining import (
    SPANS_A_WORKER,
    Gap,
    gaps,
    has_remaining,
    image_count,
    plan_file_digest,
    planned_sources,
    remaining_spans,
    shard_digest,
    waves,
)
from pipeline.output.span import Span
from pipeline.plan.plan import Plan, PlanFile
from pipeline.shards.base import Cursor, SourceObject
from tests.support.counted import CountedRow, compared
from tests.support.listings import table_of

SOURCE = "a" * 24


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
    shard = SourceObject(uri="/in/a.tar", kind="tar", size=10, version="etag:1")
    parts = [PartName(shard_digest(shard), 4 * number, count, count == 2) for number, count in enumerate(rows)]
    plan, committed = Plan(settings={}, shards={shard.uri: shard}), table_of(parts)
    assert has_remaining(plan, committed) is expected
    assert bool(remaining_spans(plan, committed, part_images=4, workers=1)) is expected
    assert not has_remaining(Plan(settings={}), table_of([]))


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.booleans()), max_size=4), max_size=4), st.integers(0, 3)
)
def test_anything_left_is_what_spans_would_say_of_any_parts(found: list[list[tuple[int, int, bool]]], unknown: int) -> None:
    """Of shards and single images, whole or not, with overlaps (format 1), and beside parts that no plan names."""
    plan = Plan(
        settings={}, files=[PlanFile(0, False, 3), PlanFile(1, True, 5)], shards={f"/in/{name}.tar": _tar(name) for name in "012"}
    )
    sources = [*(shard_digest(_tar(str(number))) for number in range(3)), plan_file_digest(plan.files[1])]
    sources[unknown] = "e" * 24
    parts = {PartName(source, *part) for source, some in zip(sources, found, strict=False) for part in some}
    table = table_of(parts)
    assert has_remaining(plan, table) is bool(remaining_spans(plan, table, part_images=1, workers=1))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(0, 4, False), (4, 2, True)], False),  # a chain
        ([(0, 4, False), (2, 2, False), (4, 2, True)], False),  # no chain, as one begins within another, and still whole
        ([(0, 4, False), (2, 1, False), (5, 1, True)], True),  # no chain, and a gap
        ([(0, 4, False), (2, 2, False)], True),
    ],
)
def test_parts_that_overlap_are_looked_at_one_after_another(parts: list[tuple[int, int, bool]], expected: bool) -> None:
    shard = _tar("0")
    plan = Plan(settings={}, files=[PlanFile(0, False, 1)], shards={shard.uri: shard})
    table = table_of(PartName(shard_digest(shard), *part) for part in parts)
    assert has_remaining(plan, table) is bool(remaining_spans(plan, table, part_images=4, workers=1)) is expected


@pytest.mark.parametrize(("rows", "expected"), [(5, False), (3, True), (0, True)])
def test_single_images_remain_beside_whole_shards(rows: int, expected: bool) -> None:
    shard = _tar("0")
    plan = Plan(settings={}, files=[PlanFile(0, False, 1), PlanFile(1, True, 5)], shards={shard.uri: shard})
    parts = [PartName(shard_digest(shard), 0, 7, True)]
    parts += [PartName(plan_file_digest(plan.files[1]), 0, rows, rows == 5)] if rows else []
    assert has_remaining(plan, table_of(parts)) is expected


def test_what_is_whole_is_looked_at_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sources are digested once: a million shards of one part took 25 s, each time."""
    shards = {f"/in/{number}.tar": _tar(str(number)) for number in range(100)}
    plan = Plan(settings={}, files=[PlanFile(0, False, 100)], shards=shards)
    names = [PartName(shard_digest(shard), 4 * part, 4, part == 2) for shard in shards.values() for part in range(3)]
    table = table_of(names)
    planned = planned_sources(plan)
    monkeypatch.setattr(PartTable, "__getitem__", lambda *_: pytest.fail("one after another"))
    monkeypatch.setattr(left, "source_digest", lambda *_: pytest.fail("again"))
    assert not has_remaining(plan, table)
    assert list(planned_sources(plan)) == list(planned)  # and no digest was made again
    assert has_remaining(plan, table_of(names[:-1]))
    monkeypatch.undo()
    plan.shards["/in/7.tar"] = _tar("7", "etag:2")  # as a next plan file changes it
    plan.files.append(PlanFile(1, False, 1))
    assert planned_sources(plan) - planned == {shard_digest(_tar("7", "etag:2"))}
    assert has_remaining(plan, table)


def test_images_of_parts_are_without_the_rows_that_later_ones_replace() -> None:
    plan = Plan(
        settings={},
        files=[PlanFile(0, True, 10), PlanFile(1, True, 3)],
        superseded={0: [6, 5, 9]},
        shards={"/in/0.tar": _tar("0")},
    )
    source, shard = plan_file_digest(plan.files[0]), shard_digest(_tar("0"))
    parts = [PartName(shard, 0, 7, True), PartName(source, 0, 4, False), PartName(source, 4, 4, False)]
    assert image_count(plan, table_of(parts)) == 7 + 4 + 2
    assert image_count(plan, table_of([*parts, PartName(source, 8, 2, True)])) == 7 + 4 + 2 + 1
    assert image_count(plan, table_of([])) == 0


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
        assert gap.previous == (before[-1] if before else None)
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


def _tar(name: str, version: str = "etag:1") -> SourceObject:
    return SourceObject(uri=f"/in/{name}.tar", kind="tar", size=10, version=version)


def test_shards_go_on_behind_what_is_committed() -> None:
    plan = Plan(settings={}, shards={shard.uri: shard for shard in (_tar("0"), _tar("1"), _tar("2"))})
    one, two = shard_digest(_tar("1")), shard_digest(_tar("2"))
    committed = {one: [PartName(one, 0, 4, False)], two: [PartName(two, 0, 4, True)], "f" * 24: [PartName("f" * 24, 0, 9, True)]}
    spans = remaining_spans(plan, committed, part_images=4, workers=2)
    assert [(span.source, span.first, span.stop, span.previous) for span in spans] == [
        (_tar("0"), 0, None, None),
        (_tar("1"), 4, None, committed[one][0]),
    ]
    assert planned_sources(plan) == {shard_digest(_tar(name)) for name in "012"}


def test_a_gap_in_a_shard_ends_where_the_next_part_begins() -> None:
    shard = _tar("0")
    digest = shard_digest(shard)
    plan = Plan(settings={}, shards={shard.uri: shard})
    committed = {digest: [PartName(digest, 4, 4, False)]}
    spans = remaining_spans(plan, committed, part_images=4, workers=1)
    assert [(span.first, span.stop, span.previous) for span in spans] == [(0, 4, None), (8, None, committed[digest][0])]


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


@pytest.mark.parametrize("rows", [[6, 5, 11], list(range(2_000))])
def test_rows_that_are_replaced_are_looked_at_once(rows: list[int]) -> None:
    """And not once a span: `--relabel-changed` may replace all of a file."""
    plan = Plan(settings={}, files=[PlanFile(0, True, 2_000)], superseded={0: [CountedRow(row) for row in rows]})
    compared.clear()
    spans = remaining_spans(plan, {}, part_images=10, workers=64)
    assert compared["rows"] <= 20 * len(spans) + 20 * len(rows)
    assert len(spans) == 200
    assert [row for span in spans for row in span.superseded] == sorted(rows)
    assert all(span.first <= row < (span.stop or 0) for span in spans for row in span.superseded)


def test_many_single_images_make_enough_spans_for_all_workers_and_not_many_more() -> None:
    plan = Plan(settings={}, files=[PlanFile(0, True, 100_000)])
    spans = remaining_spans(plan, {}, part_images=10, workers=4)
    assert 4 * SPANS_A_WORKER <= len(spans) <= 2 * 4 * SPANS_A_WORKER


def test_waves_are_all_that_is_left_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "WAVE_SPANS", 4)
    monkeypatch.setattr(left, "WAVE_SPANS_A_WORKER", 3)
    shards = [SourceObject(uri=f"/in/{number}.tar", kind="tar", size=10, version="etag:1") for number in range(10)]
    plan = Plan(settings={}, shards={shard.uri: shard for shard in shards})
    for workers, sizes in ((1, [4, 4, 2]), (2, [6, 4])):
        found = list(waves(plan, {}, part_images=4, workers=workers))
        assert [len(wave) for wave in found] == sizes
        assert [span for wave in found for span in wave] == remaining_spans(plan, {}, part_images=4, workers=workers)
        turned = [span for wave in waves(plan, {}, part_images=4, workers=workers, begin=0.35) for span in wave]
        assert turned == [*(spans := [span for wave in found for span in wave])[3:], *spans[:3]]
    assert list(waves(Plan(settings={}), {}, part_images=4, workers=1)) == []
