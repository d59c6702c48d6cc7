"""Parts: their names, what one listing says of them, digests of their rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.parts import PartName, add_digests, is_part_name, list_parts, part_key, row_digest, source_digest
from pipeline.storage.local import LocalStore

STORE = LocalStore()
DIGESTS = st.text("0123456789abcdef", min_size=24, max_size=24)


# --- names ---------------------------------------------------------------------------------------------------


@given(source=DIGESTS, first=st.integers(0, 10**10 - 1), rows=st.integers(0, 65536), last=st.booleans())
def test_names_of_format_1_round_trip(source: str, first: int, rows: int, last: bool) -> None:
    name = PartName(source, first, rows, last)
    assert PartName.parse(str(name), 7) == name
    assert name.stop == first + rows


@given(
    source=DIGESTS, first=st.integers(0, 10**10 - 1), most=st.integers(1, 65536), share=st.floats(0, 1), last=st.booleans(),
    size=st.integers(0, 1 << 30),
)  # fmt: skip
def test_name_and_size_say_what_a_part_covers(source: str, first: int, most: int, share: float, last: bool, size: int) -> None:
    name = PartName(source, first, round(share * most), last, most, size)
    assert PartName.parse(str(name), size + name.padding) == name
    assert 0 <= name.padding < 2 * (most + 1)


def test_two_parts_that_begin_at_one_index_have_one_name() -> None:
    assert str(PartName("a" * 24, 8, 256, False, 256)) == str(PartName("a" * 24, 8, 1, True, 256)) == part_key("a" * 24, 8, 256)


@given(st.lists(st.builds(PartName, DIGESTS, st.integers(0, 10**10 - 1), st.integers(0, 65536), st.booleans()), unique=True))
def test_listings_by_name_are_listings_by_index(names: list[PartName]) -> None:
    by_text = [PartName.parse(text, 0) for text in sorted(map(str, names))]
    assert [(name.source, name.first) for name in by_text if name] == sorted((name.source, name.first) for name in names)


@pytest.mark.parametrize(
    "text",
    ["", "x.parquet", "g" * 24 + "-0000000000-00001.parquet", "a" * 24 + "-0000000000-00001", "a" * 24 + "-0-1.parquet",
     "a" * 24 + "-0000000000-00001-first.parquet", "x" + "a" * 24 + "-0000000000-00001.parquet",
     "a" * 24 + "-0000000000-00001.parquet\n",
     "a" * 24 + "-0000000000-00001.parquet.tmp", "A" * 24 + "-0000000000-00001.parquet",
     "a" * 24 + "-0000000000-max.parquet", "a" * 24 + "-0000000000-max256-last.parquet", "a" * 24 + "-0000000000.parquet"],
)  # fmt: skip
def test_other_names_are_no_parts(text: str) -> None:
    assert PartName.parse(text, 0) is None
    assert not is_part_name(text)


def test_the_source_digest_is_of_uri_and_identity() -> None:
    digests = {
        source_digest(uri, size, version)
        for uri in ("a", "b") for size in (1, None) for version in ("etag:1", "etag:2", None)
    }  # fmt: skip
    assert len(digests) == 12
    assert source_digest("s3://b/0.tar", 100, "etag:1") == source_digest("s3://b/0.tar", 100, "etag:1")


def test_list_parts(tmp_path: Path) -> None:
    source, other = "a" * 24, "b" * 24
    names = [
        PartName(source, 8, 2, True, 4),
        PartName(source, 0, 4, False, 4),
        PartName(source, 4, 4, False),
        PartName(other, 0, 0, True, 4),
    ]
    for name in names:
        STORE.create(str(tmp_path / "masks" / str(name)), bytes(name.padding if name.max_rows else 0))
    for stray in ("stray.parquet", ".hidden"):
        STORE.create(str(tmp_path / "masks" / stray), b"")
    assert list_parts(STORE, str(tmp_path)) == {source: [names[1], names[2], names[0]], other: [names[3]]}
    assert list_parts(STORE, str(tmp_path / "absent")) == {}


# --- digests -------------------------------------------------------------------------------------------------


def test_a_row_digest_sees_everything_that_makes_a_row() -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    other = mask.copy()
    other[2, 3] ^= 1
    digests = [
        row_digest("s", 0, mask), row_digest("s", 1, mask), row_digest("t", 0, mask), row_digest("s", 0, other),
        row_digest("s", 0, mask.reshape(4, 3)), row_digest("s", 0, mask.reshape(2, 6)),
    ]  # fmt: skip
    assert len(set(digests)) == 6
    assert row_digest("s", 0, np.asfortranarray(mask)) == digests[0]
    assert row_digest("s", 0, mask[:, ::-1][:, ::-1]) == digests[0]


@given(st.lists(st.integers(0, (1 << 256) - 1)), st.randoms(use_true_random=False), st.integers(0, 10))
def test_digests_add_up_in_any_order_and_grouping(digests: list[int], random: "object", at: int) -> None:
    whole = add_digests(digests)
    shuffled = sorted(digests)
    assert add_digests(shuffled) == whole
    assert add_digests([add_digests(shuffled[:at]), add_digests(shuffled[at:])]) == whole
    assert len(whole) == 64
    assert add_digests([1, 2]) != add_digests([3, 1])
    assert add_digests([(1 << 256) - 1]) == "f" * 64
    assert add_digests(["f" * 64, 2]) == f"{1:064x}"
