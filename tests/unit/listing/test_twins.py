"""URIs that are written alike: cheap at a million."""

import tracemalloc

import pytest

from pipeline.errors import UsageError
from pipeline.listing.twins import Twins


def test_a_line_costs_tens_of_bytes() -> None:
    twins, lines = Twins(told_apart=True), 10_000
    tracemalloc.start()
    for number in range(lines):
        twins.add(f"https://h/{number}.jpg?token={number}", 0, number + 1)
    twins.refuse(["l.txt"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * lines
    twins.add("https://h/7.jpg?token=other", 0, lines + 1)
    with pytest.raises(UsageError, match=f"lines 8 and {lines + 1} differ"):
        twins.refuse(["l.txt"])
