"""Sums of footers: exact in any order, taken away again, of which parts they are."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.parts import PartName
from pipeline.sums.totals import PartSet, Totals, is_among
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


class _Broken(BaseException):
    """What a signal handler raises."""


class _Breaks(Counter[str]):
    """Errors, at which a change stops in its middle."""

    def __pos__(self) -> Counter[str]:
        raise _Broken


@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_change_that_is_broken_off_leaves_torn_sums(change: str) -> None:
    totals = _sums_of([0, 1])
    whole = totals.sums()
    totals.errors = _Breaks(totals.errors)
    number = 2 if change == "add" else 1
    with pytest.raises(_Broken):
        getattr(totals, change)(_name(number), made_up_footer(number))
    totals.errors = Counter(whole.errors)
    assert totals.is_torn
    assert totals.sums().torn
    totals.add(_name(3), made_up_footer(3))
    totals.remove(_name(0), made_up_footer(0))
    assert totals.sums().is_torn  # what comes later does not mend it
    totals.become(whole)
    assert not totals.sums().torn
    assert totals.same_sums(_sums_of([0, 1]))


def test_a_footer_that_cannot_be_added_leaves_no_part_whose_sums_are_missing() -> None:
    totals, footer = _sums_of([0]), made_up_footer(1)
    with pytest.raises(ValueError, match="broadcast"):
        totals.add(_name(1), replace(footer, histograms=footer.histograms[:2]))
    assert totals.torn
    assert _name(1).key not in totals.parts


def test_the_same_has_the_same_parts() -> None:
    totals, other = _sums_of([0, 1]), _sums_of([0, 1])
    assert totals.is_same(other)
    keys, counts = other.parts.arrays()
    other.parts = PartSet(keys, counts[::-1].copy())
    assert totals.same_sums(other)
    assert not totals.is_same(other)


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
