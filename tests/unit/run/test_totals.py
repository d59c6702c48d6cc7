"""Sums of footers: exact in any order, taken away again, of which parts they are."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.parts import PartName
from pipeline.run.totals import PartSet, Totals, is_among
from tests.support.made_up import CLASSES, made_up_footer

KEYS = st.integers(0, (1 << 64) - 1)


def _name(number: int, version: str = "etag:1") -> PartName:
    return PartName("a" * 24, 4 * number, 4, False, 4, 2000, version)


def _sums_of(numbers: list[int]) -> Totals:
    totals = Totals(CLASSES)
    for number in numbers:
        totals.add(_name(number), made_up_footer(number, error="CorruptImage" if number % 3 == 1 else None))
    return totals


@given(st.lists(st.integers(0, 40), unique=True), st.lists(st.integers(0, 40), unique=True), st.randoms(use_true_random=False))
def test_what_was_added_and_taken_away_never_was(numbers: list[int], more: list[int], order: random.Random) -> None:
    totals = _sums_of(numbers)
    more = [number for number in more if number not in numbers]
    for number in more:
        totals.add(_name(number), made_up_footer(number, error="CorruptImage" if number % 3 == 1 else None))
    order.shuffle(more)
    for number in more:
        assert totals.remove(_name(number), made_up_footer(number, error="CorruptImage" if number % 3 == 1 else None))
    before = _sums_of(sorted(numbers, reverse=True))
    assert totals.same_sums(before)
    assert totals.parts.arrays()[0].tolist() == before.parts.arrays()[0].tolist()
    assert not any(count == 0 for count in totals.errors.values())


def test_a_part_counts_once_and_one_made_anew_is_another() -> None:
    totals = _sums_of([1, 2])
    before = totals.sums()
    totals.add(_name(1), made_up_footer(1))
    assert totals.same_sums(before)
    assert not totals.remove(_name(1, "etag:2"), made_up_footer(1))
    totals.add(_name(1, "etag:2"), made_up_footer(1))
    assert not totals.same_sums(before)
    assert before.images == 8


def test_a_copy_stays_as_it_is() -> None:
    totals = _sums_of([0, 1, 4])
    copy = totals.sums()
    totals.add(_name(7), made_up_footer(7))
    totals.remove(_name(0), made_up_footer(0))
    assert copy.same_sums(_sums_of([0, 1, 4]))
    assert len(copy.parts) == 3
    totals.become(copy)
    assert totals.is_exactly(np.array([_name(number).key for number in (4, 0, 1)], np.uint64))
    totals.clear()
    assert totals.same_sums(Totals(CLASSES))


@given(st.dictionaries(KEYS, st.tuples(st.integers(0, 300), st.integers(0, 300))), st.sets(KEYS), st.sets(KEYS))
def test_a_set_of_parts_is_a_set(parts: dict[int, tuple[int, int]], others: set[int], gone: set[int]) -> None:
    found = PartSet()
    for number, (key, (masks, failures)) in enumerate(parts.items()):
        found.add(key, masks, failures)
        if number % 5 == 4:
            found.arrays()  # some lie in arrays, some do not
    for key in gone & parts.keys():
        found.remove(key)
        assert key not in found
    left = {key: counts for key, counts in parts.items() if key not in gone}
    asked = np.array([*parts, *others], np.uint64)
    assert len(found) == len(left)
    assert all((key in found) == (key in left) for key in asked.tolist())
    assert found.has(asked).tolist() == [key in left for key in asked.tolist()]
    assert found.counts_of(asked).tolist() == [list(left.get(key, (-1, -1))) for key in asked.tolist()]
    keys, counts = found.arrays()
    assert dict(zip(keys.tolist(), map(tuple, counts.tolist()), strict=True)) == left
    assert keys.tolist() == sorted(left)


def test_a_part_that_was_taken_out_comes_back() -> None:
    found = PartSet(np.array([3, 5], np.uint64), np.array([[1, 0], [2, 0]], np.uint32))
    found.remove(5)
    found.add(5, 2, 0)
    assert found.counts_of(np.array([5], np.uint64)).tolist() == [[2, 0]]
    assert len(found) == 2


@given(st.lists(KEYS), st.sets(KEYS))
def test_is_among(keys: list[int], ascending: set[int]) -> None:
    found = is_among(np.array(keys, np.uint64), np.array(sorted(ascending), np.uint64))
    assert found.tolist() == [key in ascending for key in keys]
