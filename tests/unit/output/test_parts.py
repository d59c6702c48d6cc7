"""Parts: their names, what one listing says of them, digests of their rows."""

import hashlib
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Damaged
from pipeline.output.parts import PartName, PartTable, add_digests, is_part_name, list_parts, part_key, row_digest, source_digest
from pipeline.output.remaining import gaps
from pipeline.storage.base import PAGE, ObjectInfo
from pipeline.storage.local import LocalStore
from tests.support.listings import Listing, table_of

STORE = LocalStore()
DIGESTS = st.text("0123456789abcdef", min_size=24, max_size=24)


# --- names ---------------------------------------------------------------------------------------------------


@given(source=DIGESTS, first=st.integers(0, 10**10 - 1), rows=st.integers(0, 65536), last=st.booleans())
def test_names_of_format_1_round_trip(source: str, first: int, rows: int, last: bool) -> None:
    name = PartName(source, first, rows, last)
    assert PartName.parse(str(name), 7) == name
    assert name.stop == first + rows


@given(
    source=DIGESTS, first=st.integers(0, 10**10 - 1), max_rows=st.integers(1, 65536), share=st.floats(0, 1), last=st.booleans(),
    size=st.integers(0, 1 << 30),
)  # fmt: skip
def test_name_and_size_say_what_a_part_covers(
    source: str, first: int, max_rows: int, share: float, last: bool, size: int
) -> None:
    name = PartName(source, first, round(share * max_rows), last, max_rows, size)
    assert PartName.parse(str(name), size + name.padding) == name
    assert 0 <= name.padding < 2 * (max_rows + 1)


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


def test_a_table_without_parts() -> None:
    table = PartTable.empty()
    assert (len(table), table.part_count, table.row_count, list(table.parts())) == (0, 0, 0, [])
    assert table.part_keys.dtype == np.dtype(np.uint64)
    assert [flags.tolist() for flags in table.chains()] == [[], []]
    assert table.get("a" * 24) is None
    with pytest.raises(KeyError, match="a" * 24):
        table["a" * 24]


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


SHORT_DIGESTS = st.sampled_from(["0" * 24, "0" * 23 + "1", "0" * 16 + "f" * 8, "f" * 24, "8" + "0" * 23, "a" * 24])


@given(
    st.lists(
        st.tuples(SHORT_DIGESTS, st.integers(0, 30), st.integers(0, 3000), st.booleans(), st.text("abc0:-", max_size=40)),
        unique_by=lambda part: part[:2],
    ),
    st.sets(SHORT_DIGESTS),
)
def test_a_table_is_the_listing(found: list[tuple[str, int, int, bool, str]], sources: set[str]) -> None:
    names = [
        PartName(source, first, size % 4, False, 0, size, version) if old else PartName(source, first, 0, False, 4, size, version)
        for source, first, size, old, version in found
    ]
    infos = [ObjectInfo(f"out/masks/{name}", name.size, name.version or None) for name in names]
    wanted: dict[str, list[PartName]] = {}
    for info in infos:
        name = PartName.parse(info.uri.rpartition("/")[2], info.size or 0, info.version or "")
        assert name is not None
        wanted.setdefault(name.source, []).append(name)
    for each in wanted.values():
        each.sort()
    table = list_parts(Listing(infos), "out")
    assert table == wanted
    assert (len(table), table.part_count) == (len(wanted), len(names))
    assert table.row_count == sum(name.rows for each in wanted.values() for name in each)
    assert [(str(name), name.size, name.version) for name in table.parts()] == [
        (str(name), name.size, name.version) for source in sorted(wanted) for name in wanted[source]
    ]
    assert table.part_keys.tolist() == [name.key for name in table.parts()]
    assert {source for source in sources if source in table} == sources & wanted.keys()
    kept = table.only(table.of(sources))
    assert kept == {source: each for source, each in wanted.items() if source in sources}
    assert list(table.parts(~table.of(sources))) == list(table.only(~table.of(sources)).parts())


def test_a_table_of_many_is_small_and_made_of_batches(tmp_path: Path) -> None:
    infos = [
        ObjectInfo(f"out/masks/{part_key(f'{number // 5:024x}', number % 5, 256)}", 1_000_000, f"etag:{number:032x}")
        for number in range(25_001)
    ]
    tracemalloc.start()
    table = list_parts(Listing(infos), "out")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 125 * len(infos)
    assert peak < 300 * len(infos)
    assert table.part_count == 25_001
    assert [name.version for name in table.parts()][::5000] == [f"etag:{number:032x}" for number in range(0, 25_001, 5000)]


def test_two_parts_with_one_key_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [ObjectInfo(f"out/masks/{part_key('a' * 24, first, 4)}", 100, f"etag:{first}") for first in range(9)]
    monkeypatch.setattr("pipeline.output.parts._key", lambda *part: int(part[2][5:]) % 8)
    with pytest.raises(Damaged, match="two parts have one key"):
        list_parts(Listing(infos), "out")
    assert list_parts(Listing(infos[1:]), "out").part_count == 8


def test_a_part_made_anew_has_another_key() -> None:
    name = PartName("a" * 24, 0, 4, False, 4, 1000, "etag:1")
    others = [replace(name, first=1), replace(name, size=1001), replace(name, version="etag:2"), replace(name, max_rows=5)]
    assert len({name.key, *(other.key for other in others)}) == 5
    assert all(0 < other.key < 1 << 64 for other in others)


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


def test_a_row_digest_never_changes() -> None:
    """All runs of all versions add these up: SHA-256 of a header, its length before it in four bytes, and the label pixels."""
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    header = b'["s3://b/0.tar", 7, 4, 3]'
    known = hashlib.sha256(bytes([0, 0, 0, len(header)]) + header + bytes(range(12))).hexdigest()
    assert row_digest("s3://b/0.tar", 7, mask) == int(known, 16)


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


class _Pages(Listing):
    """Answers a page at a time, as S3 does, and counts."""

    walks_prefixes = True

    def __init__(self, infos: list[ObjectInfo]) -> None:
        super().__init__(sorted(infos, key=lambda info: info.uri))
        self.pages = 0

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        found = list(super().walk(prefix))
        for first in range(0, len(found) or 1, PAGE):
            self.pages += 1
            yield from found[first : first + PAGE]


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (999, 1), (1000, 17), (12_345, 14 + 17)])
def test_what_is_more_than_a_page_is_listed_by_digits_at_once(count: int, pages: int) -> None:
    random = np.random.default_rng(count)
    infos = [
        ObjectInfo(f"out/masks/{part_key(random.bytes(12).hex(), number % 3, 256)}", number, f"etag:{number:032x}")
        for number in range(count)
    ]
    infos += [ObjectInfo(f"out/masks/{stray}", 1, "etag:1") for stray in ("_SUCCESS", "~x", "A.parquet")[: count // 1000]]
    store = _Pages(infos)
    table = list_parts(store, "out")
    assert table.part_count == count
    assert table == list_parts(Listing(infos), "out")
    assert len(set(table.part_keys.tolist())) == count
    assert store.pages <= pages


@pytest.mark.parametrize("order", ["other", "ascending"])
def test_a_bucket_that_lists_in_no_order_is_walked_as_a_whole(order: str) -> None:
    """S3's directory buckets: in no order, and only folders are prefixes."""
    random = np.random.default_rng(0)
    infos = [ObjectInfo(f"out/masks/{part_key(random.bytes(12).hex(), 0, 256)}", 7, "etag:1") for _ in range(2345)]

    class Unordered(_Pages):
        def walk(self, prefix: str) -> Iterator[ObjectInfo]:
            assert order == "ascending" or prefix.endswith("/")
            return super().walk(prefix)

    store = Unordered(infos)
    if order == "other":
        random.shuffle(store._infos)
    table = list_parts(store, "out")
    assert table == list_parts(Listing(infos), "out")
    assert (store.pages == 3) is (order == "other")


@given(st.lists(st.tuples(SHORT_DIGESTS, st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=30))
def test_chains_are_those_without_gaps(found: list[tuple[str, int, int, bool]]) -> None:
    table = table_of({PartName(*part) for part in found})
    whole, overlapping = table.chains()
    assert len(whole) == len(overlapping) == len(table)
    for source, is_whole, overlaps in zip(table, whole.tolist(), overlapping.tolist(), strict=True):
        assert overlaps == any(after.first < before.stop for before, after in pairwise(table[source]))
        assert overlaps or is_whole == (not list(gaps(table[source])))
        assert not (overlaps and is_whole)
