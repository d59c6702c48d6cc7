"""Which URIs are planned, found by hashes."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import uri_index as known_module
from pipeline.plan.uri_index import Known, Rows


@given(st.lists(st.lists(st.integers(0, 30), unique=True), max_size=5))
def test_known_finds_the_latest_row(files: list[list[int]]) -> None:
    known, truth = Known(), {}
    for number, rows in enumerate(files):
        known.add(number, Rows.of([f"uri-{row}" for row in rows], [row * 100 + number for row in rows]))
        truth.update({row: (number, at, row * 100 + number) for at, row in enumerate(rows)})
    for row in range(31):
        assert known.find([f"uri-{row}"]) == [truth.get(row)]


def test_known_compares_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes(uris: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        low = np.array([int(uri) for uri in uris], np.uint64)
        return np.full_like(low, 7), low

    monkeypatch.setattr(known_module, "_hashes", hashes)
    known = Known()
    known.add(0, Rows.of(["1", "2", "3"], [10, 20, 30]))
    assert known.find([str(number) for number in range(5)]) == [None, (0, 0, 10), (0, 1, 20), (0, 2, 30), None]
