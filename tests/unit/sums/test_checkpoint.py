"""The checkpoint: what it says it says exactly, or it is ignored; two attempts replace each other's."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Damaged, StorageError
from pipeline.output.footer import CHECKSUM_KEY, FOOTER_KEY, footer_length
from pipeline.output.parts import PartTable, list_parts
from pipeline.storage.local import LocalStore
from pipeline.sums import checkpoint as room
from pipeline.sums.checkpoint import NAME, Checkpoint, checkpoint_bytes
from pipeline.sums.derived import read_totals
from pipeline.sums.totals import PartSet, Totals
from tests.support.made_up import CLASSES, FINGERPRINT, commit, made_up_footer, make_anew

STORE = LocalStore()


@pytest.fixture
def out(tmp_path: Path) -> str:
    """With six parts, one of which has a failure."""
    for number in range(6):
        commit(STORE, str(tmp_path), made_up_footer(number, error="CorruptImage" if number == 2 else None))
    return str(tmp_path)


def _all(out: str) -> tuple[PartTable, Totals]:
    listed = list_parts(STORE, out)
    return listed, read_totals(STORE, out, listed, Totals(CLASSES), FINGERPRINT)


def _of(out: str, count: int) -> Totals:
    """The sums of the first parts."""
    listed = list_parts(STORE, out)
    return read_totals(STORE, out, listed.only(np.arange(listed.part_count) < count), Totals(CLASSES), FINGERPRINT)


def _checkpoint(out: str, **other: object) -> Checkpoint:
    values: dict[str, object] = {"fingerprint": FINGERPRINT, "classes": CLASSES} | other
    return Checkpoint(STORE, out, **values)  # type: ignore[arg-type]


def _load(out: str, listed: PartTable, **other: object) -> Totals | None:
    """By a listing that is the newest."""
    return _checkpoint(out, **other).load(listed, lambda: listed)[0]


def _parts_there(out: str) -> int:
    return int(pq.read_metadata(Path(out, NAME)).num_rows)


# --- what it says ----------------------------------------------------------------------------------------------


def test_it_gives_back_the_sums_to_the_last_bit(out: str) -> None:
    listed, totals = _all(out)
    assert _load(out, listed) is None
    assert _checkpoint(out).save(STORE, totals)
    found = _load(out, listed)
    assert found is not None
    assert found.same_sums(totals)
    assert found.is_exactly(listed.part_keys)
    assert found.counts_of(listed.part_keys).tolist() == [[4, 0], [4, 0], [3, 1], [4, 0], [4, 0], [4, 0]]


def test_the_same_sums_are_the_same_bytes(out: str) -> None:
    _, totals = _all(out)
    assert checkpoint_bytes(totals.sums(), FINGERPRINT) == checkpoint_bytes(_of(out, 6).sums(), FINGERPRINT)


def test_a_part_takes_less_than_ten_bytes() -> None:
    totals, random = Totals(CLASSES), np.random.default_rng(0)
    for key in random.integers(0, 1 << 64, 20_000, np.uint64, endpoint=False).tolist():
        totals.parts.add(key, 256, 0)
    assert len(checkpoint_bytes(totals.sums(), FINGERPRINT)) < 20_000 * 9


def test_more_parts_than_it_holds_do_not_matter(out: str) -> None:
    _checkpoint(out).save(STORE, _of(out, 4))
    found = _load(out, list_parts(STORE, out))
    assert found is not None
    assert found.same_sums(_of(out, 4))


@pytest.mark.parametrize("change", ["removed", "made anew", "touched"])
def test_it_is_ignored_if_a_part_of_it_is_gone_or_another_object(out: str, change: str) -> None:
    listed, totals = _all(out)
    _checkpoint(out).save(STORE, totals)
    name = next(listed.parts())
    path = Path(out, "masks", str(name))
    if change == "removed":
        path.unlink()
    elif change == "made anew":
        make_anew(STORE, out, made_up_footer(0, error="ImageTimeout"))
    else:  # as in a copy of OUT
        os.utime(path, ns=(1, 1))
    assert _load(out, list_parts(STORE, out)) is None


def test_it_is_ignored_if_it_is_of_another_run_or_a_newer_version(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, totals = _all(out)
    _checkpoint(out).save(STORE, totals)
    assert _load(out, listed, fingerprint="0" * 64) is None
    with pytest.raises(Damaged, match="contradict"):
        _checkpoint(out, classes=("a", "b", "c")).read(6)
    monkeypatch.setattr(room, "CHECKPOINT_FORMAT", 2)
    _checkpoint(out).save(STORE, totals, smaller=True)
    monkeypatch.undo()
    assert _checkpoint(out).read(6) is None
    assert _checkpoint(out).save(STORE, totals)  # which an attempt of this version replaces
    assert _load(out, listed) is not None


def test_one_that_is_too_large_to_be_true_is_not_even_read(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, totals = _all(out)
    _checkpoint(out).save(STORE, totals)
    assert _checkpoint(out).read(5) is None
    os.truncate(Path(out, NAME), room._BYTES + 1013 * room._BYTES_A_PART)
    monkeypatch.setattr(LocalStore, "read", lambda *_: pytest.fail("read"))
    assert _load(out, listed) is None


@given(at=st.integers(0, 1 << 20), bits=st.integers(1, 255))
def test_a_flipped_byte_is_damage_or_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, bits: int) -> None:
    out = str(tmp_path_factory.mktemp("out"))
    commit(STORE, out, made_up_footer(0, error="CorruptImage"))
    listed, totals = _all(out)
    data = bytearray(checkpoint_bytes(totals.sums(), FINGERPRINT))
    data[at % len(data)] ^= bits
    Path(out, NAME).write_bytes(data)
    with suppress(Damaged):
        found = _checkpoint(out).read(1)
        assert found is None or (found.same_sums(totals) and found.is_exactly(listed.part_keys))


@pytest.mark.parametrize("keep", [0, 3, 8, 100, -1, -8])
def test_half_of_one_is_damage_and_ignored(out: str, keep: int) -> None:
    listed, totals = _all(out)
    Path(out, NAME).write_bytes(checkpoint_bytes(totals.sums(), FINGERPRINT)[:keep])
    with pytest.raises(Damaged):
        _checkpoint(out).read(6)
    assert _load(out, listed) is None


def _written(
    out: str, said: dict[str, object], rows: Sequence[int] = range(6), masks: Sequence[int] = (4, 4, 3, 4, 4, 4)
) -> None:
    """A checkpoint that somebody wrote with sums of their own (None: left out), its checksum in order."""
    data = checkpoint_bytes(_all(out)[1].sums(), FINGERPRINT)
    values = json.loads(pq.read_metadata(pa.BufferReader(data)).metadata[FOOTER_KEY]) | said
    text = json.dumps({name: value for name, value in values.items() if value is not None}).encode()
    table = pq.read_table(pa.BufferReader(data))
    counts = {int(key): count for key, count in zip(list_parts(STORE, out).part_keys, masks, strict=True)}
    column = pa.array([counts[key] for key in table.column("part").to_pylist()], pa.uint32())
    with pq.ParquetWriter(Path(out, NAME), table.schema) as writer:
        writer.write_table(table.set_column(1, "masks", column).take(list(rows)))
        writer.add_key_value_metadata({FOOTER_KEY: text, CHECKSUM_KEY: hashlib.sha256(text).hexdigest().encode()})


@pytest.mark.parametrize(
    "said",
    [
        {"masks": 22, "images": 23}, {"images": 99}, {"pixels": 1}, {"errors": {"CorruptImage": 2}}, {"errors": {}},
        {"errors": [7]}, {"parts": 5}, {"parts_sha256": "0" * 64}, {"digest": "x"}, {"digest": None}, {"removal": None},
        {"histograms": "AAAA"},
        {"images_by_class": [1, 2]}, {"pixels_by_class": None}, {"classes": ["a"]}, {"pixels": None}, {"fingerprint": None},
        {"pixels_by_class": [1, 2, 3]},
    ],
)  # fmt: skip
def test_sums_that_contradict_each_other_are_damage(out: str, said: dict[str, object]) -> None:
    _written(out, said)
    with pytest.raises(Damaged):
        _checkpoint(out).read(6)


@pytest.mark.parametrize(
    ("rows", "masks"),
    [
        ([1, 2, 3, 4, 5], (4, 4, 3, 4, 4, 4)),
        ([1, 2, 3, 4, 5, 5], (4, 4, 3, 4, 4, 4)),
        ([1, 0, 2, 3, 4, 5], (4, 4, 3, 4, 4, 4)),
        ([0, 1, 2, 3, 4, 5], (5, 4, 3, 4, 4, 4)),
    ],
)
def test_rows_that_are_not_those_of_the_sums_are_damage(out: str, rows: list[int], masks: tuple[int, ...]) -> None:
    _written(out, {})
    assert _checkpoint(out).read(6) is not None
    _written(out, {}, rows, masks)
    with pytest.raises(Damaged):
        _checkpoint(out).read(6)


# --- two attempts ----------------------------------------------------------------------------------------------


def test_one_that_has_more_is_left_and_one_that_has_less_is_replaced(out: str) -> None:
    one, other = _checkpoint(out), _checkpoint(out)
    assert one.save(STORE, _of(out, 2))
    assert other.save(STORE, _of(out, 4))
    assert not one.save(STORE, _of(out, 3))
    assert not one.save(STORE, _of(out, 4))
    assert _parts_there(out) == 4
    assert one.save(STORE, _of(out, 5))
    assert not one.save(STORE, _of(out, 5))  # nothing new
    assert _parts_there(out) == 5
    assert not other.save(STORE, Totals(CLASSES))


def test_what_another_attempt_made_smaller_is_left_until_the_parts_are_listed_again(out: str) -> None:
    """It is about to remove parts: what holds them would be of no use to anybody."""
    one, other, listed = _checkpoint(out), _checkpoint(out), list_parts(STORE, out)
    one.save(STORE, _of(out, 5))
    assert other.load(listed, lambda: listed)[0] is not None
    assert other.save(STORE, _of(out, 4), smaller=True)
    assert not one.save(STORE, _of(out, 6))
    assert _parts_there(out) == 4
    assert one.load(listed, lambda: listed)[0] is not None
    assert one.save(STORE, _of(out, 6))


def test_one_that_is_not_provable_is_replaced_by_a_smaller_one(out: str) -> None:
    _checkpoint(out).save(STORE, _of(out, 6))
    Path(out, "masks", str(next(list_parts(STORE, out).parts()))).unlink()
    listed = list_parts(STORE, out)
    attempt = _checkpoint(out)
    assert attempt.load(listed, lambda: listed)[0] is None
    assert attempt.save(STORE, _of(out, 3))
    assert _load(out, listed) is not None


def test_at_the_end_only_one_that_holds_all_and_more_is_left(out: str) -> None:
    late, early = _checkpoint(out), _checkpoint(out)
    late.save(STORE, _of(out, 6), last=True)
    assert not early.save(STORE, _of(out, 5), last=True)  # it listed before the sixth was there
    assert not early.save(STORE, _of(out, 4), last=True)
    assert _parts_there(out) == 6
    make_anew(STORE, out, made_up_footer(0, error="ImageTimeout"))
    assert early.save(STORE, _of(out, 5), last=True)  # holds one that is not in the other
    assert late.save(STORE, _of(out, 6), last=True)


def test_a_smaller_one_that_came_in_between_lasts_until_the_next_attempt(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced: one looks, the other writes more, the one writes less. Both are right; who comes next reads what is missing."""
    one, other, real = _checkpoint(out), _checkpoint(out), LocalStore.replace

    def raced(self: LocalStore, uri: str, data: bytes) -> str:
        monkeypatch.undo()
        assert other.save(STORE, _of(out, 6))
        return real(self, uri, data)

    monkeypatch.setattr(LocalStore, "replace", raced)
    assert one.save(STORE, _of(out, 3))
    assert _parts_there(out) == 3
    listed = list_parts(STORE, out)
    found = _load(out, listed)
    assert found is not None
    assert found.same_sums(_of(out, 3))
    assert other.save(STORE, _of(out, 6))
    assert _parts_there(out) == 6


def test_with_many_classes_the_end_of_another_attempts_is_read_as_well(tmp_path: Path) -> None:
    """Which is longer than what is read at first: 255 classes have a footer of more than 100 kB."""
    random, classes = np.random.default_rng(0), tuple(f"class {number}" for number in range(255))

    def sums_of(parts: int) -> Totals:
        keys = np.arange(parts, dtype=np.uint64)
        totals = Totals(classes, parts=PartSet(keys, np.tile(np.array([[4, 0]], np.uint32), (parts, 1))))
        totals.images = totals.masks = 4 * parts
        totals.histograms = random.integers(0, 1 << 40, (255, 256))
        totals.images_by_class = totals.pixels_by_class = totals.histograms.sum(axis=1)
        totals.pixels = int(totals.histograms.sum())
        return totals

    one, other = (_checkpoint(str(tmp_path), classes=classes) for _ in range(2))
    assert one.save(STORE, sums_of(9), smaller=True)
    data = Path(tmp_path, NAME).read_bytes()
    assert footer_length(data) > 100_000
    assert not other.save(STORE, sums_of(10))  # another attempt's removal
    assert other.newer_removal
    other.follow(other.newer_removal)
    assert not other.save(STORE, sums_of(8))
    assert Path(tmp_path, NAME).read_bytes() == data
    assert other.save(STORE, sums_of(10))


def test_torn_sums_are_not_saved(out: str) -> None:
    totals = _of(out, 4)
    totals.torn = True
    assert not _checkpoint(out).save(STORE, totals)
    assert not _checkpoint(out).save(STORE, totals, smaller=True)
    assert not Path(out, NAME).exists()


def test_a_least_confidence_takes_pixels_away_from_all_classes(out: str) -> None:
    """Masks keep those from one confidence on: sums that no one can be of are not used."""
    totals = _of(out, 4)
    assert totals.histograms[:, 255:].sum() > 0
    for kept, whole in ((totals.histograms[:, 255:].sum(axis=1), True), (totals.pixels_by_class - [4, 0, 0], False)):
        totals.pixels_by_class = np.asarray(kept, np.int64)
        Path(out, NAME).write_bytes(checkpoint_bytes(totals.sums(), FINGERPRINT))
        assert (_load(out, list_parts(STORE, out)) is not None) is whole


def test_a_store_that_refuses_it_ends_nothing(
    out: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: LocalStore, uri: str, data: bytes) -> str:
        raise StorageError("disk full")

    monkeypatch.setattr(LocalStore, "replace", refuse)
    assert not _checkpoint(out).save(STORE, _of(out, 3))
    assert "disk full" in caplog.text
