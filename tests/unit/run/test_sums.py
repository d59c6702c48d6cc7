"""The sums of an attempt: what is read for them, what they come to if parts come, go, and are made anew meanwhile."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import Damaged, StorageError
from pipeline.run import sums as room
from pipeline.run.checkpoint import NAME
from pipeline.run.parts import PartName, list_parts, source_digest
from pipeline.run.plan import Plan, PlanFile
from pipeline.run.stale import remove_stale
from pipeline.run.summary import read_totals, write_derived
from pipeline.run.sums import Sums
from pipeline.run.totals import Totals
from pipeline.shards.base import Shard
from pipeline.storage.local import LocalStore
from tests.support.asked import asked
from tests.support.made_up import CLASSES, FINGERPRINT, commit, made_up_footer, make_anew

STORE = LocalStore()
SHARD = Shard(uri="/in/a.tar", kind="tar", size=1000, version="etag:1")
SOURCES = {source_digest(SHARD.uri, SHARD.size, SHARD.version)}
ERRORS = {1: "CorruptImage", 4: "ImageTimeout", 5: "ImageTimeout"}


@pytest.fixture
def out(tmp_path: Path) -> str:
    """Eight parts, three of which have a failure, and the checkpoint of the first six."""
    for number in range(8):
        commit(STORE, str(tmp_path), made_up_footer(number, error=ERRORS.get(number)))
        if number == 5:
            _sums(str(tmp_path)).close(SOURCES, 0)
    return str(tmp_path)


def _sums(out: str) -> Sums:
    return Sums(STORE, out, FINGERPRINT, CLASSES)


def _plan() -> Plan:
    return Plan(settings={}, files=[PlanFile(0, False, 1)], shards={SHARD.uri: SHARD})


def _truth(out: str) -> Totals:
    """By reading all footers."""
    return read_totals(STORE, out, list_parts(STORE, out), Totals(CLASSES))


def _is_true(out: str, sums: Sums) -> bool:
    """In memory, and on disk."""
    listed, truth = list_parts(STORE, out), _truth(out)
    again = _sums(out)
    again.begin()
    return all(
        found.same_sums(truth) and found.is_exactly(listed.part_keys) for found in (sums.totals, again.totals)
    ) and again.are_written(listed, 0)


def _masks_read(found: list[str]) -> list[str]:
    return [call for call in found if call.startswith("read masks/")]


# --- what is read ----------------------------------------------------------------------------------------------


def test_only_footers_that_are_not_in_the_checkpoint_are_read(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = _sums(out)
    with asked(monkeypatch, out) as calls:
        listed = sums.begin()
        sums.close(SOURCES, 0, listed)
    assert len(_masks_read(calls)) == 2
    assert calls.count("walk masks/") == 2  # at the start, and whether more has come
    assert not any("failures" in call for call in calls)
    assert _is_true(out, sums)


def test_what_is_all_written_down_is_known_by_one_listing(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _sums(out).close(SOURCES, 0)
    sums = _sums(out)
    with asked(monkeypatch, out) as calls:
        assert sums.are_written(sums.begin(), 0)
    assert calls == ["walk masks/", f"stat {NAME}", f"read {NAME}", "read class_stats.parquet"]


@pytest.mark.parametrize("name", ["class_stats.parquet", NAME])
@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")], ids=["gone", "damaged"])
def test_what_is_gone_or_damaged_is_not_written_down(out: str, name: str, change: Callable[[Path], object]) -> None:
    _sums(out).close(SOURCES, 0)
    change(Path(out, name))
    sums = _sums(out)
    assert not sums.are_written(sums.begin(), 0)
    sums.close(SOURCES, 0)
    assert _is_true(out, sums)


def test_a_failures_file_whose_worker_died_is_made_again_by_one_listing(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (8, 9, 10):
        commit(STORE, out, made_up_footer(number, error="CorruptImage"))
    names = [str(made_up_footer(number, error="x").name) for number in (8, 10)]
    before = {name: Path(out, "failures", name).read_bytes() for name in names}
    for name in names:
        Path(out, "failures", name).unlink()
    with asked(monkeypatch, out) as calls:
        sums = _sums(out)
        sums.close(SOURCES, 0, sums.begin())
    assert calls.count("names failures/") == 1
    assert {name: Path(out, "failures", name).read_bytes() for name in names} == before
    assert _is_true(out, sums)


def test_footers_are_read_many_at_once_and_few_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.run.summary.FOOTER_READERS", 4)
    for number in range(40):
        commit(STORE, str(tmp_path), made_up_footer(number))
    with asked(monkeypatch, tmp_path) as calls:
        ahead = []
        read_totals(
            STORE,
            str(tmp_path),
            list_parts(STORE, str(tmp_path)),
            Totals(CLASSES),
            lambda *_: ahead.append(len(_masks_read(calls))),
        )
    assert ahead[0] <= 2 * 4 + 1 + 1
    assert ahead[-1] == 40


# --- in the background -----------------------------------------------------------------------------------------


def test_it_is_saved_now_and_then(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SAVE_S", 0.02)
    sums = _sums(out)
    with sums.kept(sums.begin()):
        for number in (8, 9):
            sums.totals.add(commit(STORE, out, made_up_footer(number)), made_up_footer(number))
            while pq.read_metadata(Path(out, NAME)).num_rows < number + 1:
                time.sleep(0.01)
    again = _sums(out)
    again.begin()
    assert again.totals.same_sums(_truth(out))


# --- parts that another attempt makes and removes --------------------------------------------------------------


def test_a_part_that_is_made_anew_with_the_same_size_is_not_counted_as_it_was(out: str) -> None:
    """What a receipt said of a part that another attempt's `--redo` has removed and made anew meanwhile is not the truth."""
    sums = _sums(out)
    listed = sums.begin()
    name = commit(STORE, out, made_up_footer(8, error="ImageTimeout"))
    sums.totals.add(name, made_up_footer(8, error="ImageTimeout"))  # the receipt
    anew = make_anew(STORE, out, made_up_footer(8))
    assert (str(anew), anew.size) == (str(name), name.size)
    sums.close(SOURCES, 0, listed)
    assert sums.totals.errors == {"CorruptImage": 1, "ImageTimeout": 2}
    assert _is_true(out, sums)


@pytest.mark.parametrize("when", ["before its footer is read", "after"])
def test_a_part_that_is_made_anew_while_footers_are_read(out: str, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    sums, real = _sums(out), LocalStore.read
    listed, name = sums.begin(), str(made_up_footer(6).name)

    def read(self: LocalStore, uri: str, *arguments: object, **options: object) -> bytes:
        data = b""
        if uri.endswith(name):
            monkeypatch.setattr(LocalStore, "read", real)
            data = real(self, uri, *arguments, **options) if when == "after" else b""  # type: ignore[arg-type]
            make_anew(STORE, out, made_up_footer(6, error="CorruptImage"))
        return data or real(self, uri, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStore, "read", read)
    sums.close(SOURCES, 0, listed)
    assert sums.totals.errors["CorruptImage"] == 2
    assert _is_true(out, sums)


def test_parts_that_come_and_go_while_sums_are_written(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums, real, rounds = _sums(out), LocalStore.replace, list(range(3))

    def replaced(self: LocalStore, uri: str, data: bytes) -> str:
        if uri.endswith("class_stats.parquet") and rounds:
            number = rounds.pop()
            commit(STORE, out, made_up_footer(20 + number, error="CorruptImage"))
            STORE.delete(f"{out}/masks/{made_up_footer(number).name}")
        return real(self, uri, data)

    monkeypatch.setattr(LocalStore, "replace", replaced)
    sums.close(SOURCES, 0, sums.begin())
    assert not rounds
    assert sums.totals.images == 8 * 4
    assert _is_true(out, sums)


def test_what_is_removed_in_every_round_ends_with_an_error(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = _sums(out)
    listed, real = sums.begin(), LocalStore.read

    def read(self: LocalStore, uri: str, *arguments: object, **options: object) -> bytes:
        if uri.endswith(str(made_up_footer(7).name)):
            make_anew(STORE, out, made_up_footer(7))
        return real(self, uri, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStore, "read", read)
    with pytest.raises(StorageError):
        sums.close(SOURCES, 0, listed)


# --- redo ------------------------------------------------------------------------------------------------------


def test_redo_reads_parts_with_failures_alone_and_takes_them_out(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = _sums(out)
    with asked(monkeypatch, out) as calls:
        listed = sums.begin()
        kept = remove_stale(STORE, out, _plan(), listed, sums, "ImageTimeout")
    redone = [str(made_up_footer(number, error="x").name) for number in (4, 5)]
    assert sorted(call for call in calls if call.startswith("delete")) == sorted(
        f"delete {folder}/{name}" for folder in ("masks", "failures") for name in redone
    )
    # two that are not in the checkpoint, three with failures, two of them again to be taken out
    assert len(_masks_read(calls)) == 2 + 3 + 2
    saved, first = calls.index(f"replace {NAME}"), min(calls.index(call) for call in calls if call.startswith("delete"))
    assert saved < first  # else a kill in between would cost the next attempt all footers
    assert kept.part_count == 6
    assert sums.totals.same_sums(_truth(out))
    assert sums.totals.errors == {"CorruptImage": 1}
    again = _sums(out)
    again.begin()
    assert again.totals.same_sums(_truth(out))


def test_redo_of_what_nobody_failed_with_reads_no_part(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _sums(out).close(SOURCES, 0)
    sums = _sums(out)
    with asked(monkeypatch, out) as calls:
        assert remove_stale(STORE, out, _plan(), sums.begin(), sums, "KillsItsProcess").part_count == 8
    assert not _masks_read(calls)
    assert not any(call.startswith(("delete", "replace")) for call in calls)


def test_redo_needs_no_files_of_failures(out: str) -> None:
    """They are derived: a worker may have died before it wrote one, and users remove what can be made again."""
    for path in Path(out, "failures").iterdir():
        path.unlink()
    sums = _sums(out)
    kept = remove_stale(STORE, out, _plan(), sums.begin(), sums, "ImageTimeout")
    assert kept.part_count == 6
    assert [name.first for name in kept.parts()] == [0, 4, 8, 12, 24, 28]


def test_a_part_whose_sums_cannot_be_taken_out_makes_all_be_counted_again(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = _sums(out)
    listed = sums.begin()

    def damaged(*_: object) -> None:
        raise Damaged("no footer")

    with monkeypatch.context() as here:
        here.setattr(room, "read_footer", damaged)
        plan = _plan()
        plan.shards, plan.replaced = {}, [SHARD]
        kept = remove_stale(STORE, out, plan, listed, sums)
    assert kept.part_count == 0
    assert len(sums.totals.parts) == 0


@pytest.mark.parametrize("replaced", [True, False])
def test_parts_that_the_plan_does_not_mean_leave_the_sums(out: str, replaced: bool) -> None:
    """Those of an object that a later row replaces go; of what no row names it is not known what they are."""
    other = made_up_footer(0, shard="/in/b.tar")
    name = commit(STORE, out, other)
    sums = _sums(out)
    sums.close({*SOURCES, name.source}, 0, sums.begin())
    assert sums.totals.images == 9 * 4
    sums, plan = _sums(out), _plan()
    if replaced:
        plan.replaced = [replace(SHARD, uri="/in/b.tar")]
    kept = remove_stale(STORE, out, plan, sums.begin(), sums)
    assert set(kept) == SOURCES
    assert sums.totals.images == 8 * 4
    assert sums.totals.is_exactly(kept.part_keys)
    assert Path(out, "masks", str(name)).exists() is not replaced
    assert not sums.are_written(kept, 0)
    sums.close(SOURCES, 0, kept)
    again = _sums(out)
    kept = remove_stale(STORE, out, plan, again.begin(), again)
    assert again.totals.same_sums(sums.totals)
    assert again.are_written(kept, 0)


def test_parts_of_no_planned_source_are_counted_by_nobody(out: str) -> None:
    other = made_up_footer(0, shard="/in/b.tar")
    commit(STORE, out, other)
    totals = Totals(CLASSES)
    listed = write_derived(STORE, out, SOURCES, totals, 0)
    assert (listed.part_count, totals.images) == (8, 8 * 4)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_parts_with_replaced_rows_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bool) -> None:
    """Single images: rows 5 and 6 of the first plan file are replaced by a later one; the part of rows 8 to 11 was made after."""
    out, plan = str(tmp_path), Plan(settings={}, files=[PlanFile(0, True, 16), PlanFile(1, True, 3)], superseded={0: [6, 5, 11]})
    source = {"uri": "plan/00000.parquet", "size": None, "version": None}

    def part(number: int, masks: int) -> PartName:
        return commit(STORE, out, replace(made_up_footer(number), source=source, masks=masks))

    for number, masks in enumerate((4, 4, 3, 4)):
        part(number, masks)
    sums = _sums(out)
    if checkpoint:
        sums.close({source_digest("plan/00000.parquet", None, None)}, 0)
    with asked(monkeypatch, out) as calls:
        kept = remove_stale(STORE, out, plan, list_parts(STORE, out), sums)
    assert [name.first for name in kept.parts()] == [0, 8, 12]
    assert len(_masks_read(calls)) == (1 if checkpoint else 2)  # to be taken out of the sums; to be asked how many rows they have
    assert sums.totals.is_within(kept.part_keys)
    assert len(sums.totals.parts) == (3 if checkpoint else 0)


def test_a_worker_that_dies_between_the_removals_leaves_no_failures_without_a_part(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums, real = _sums(out), LocalStore.delete
    listed = sums.begin()

    def delete(self: LocalStore, uri: str) -> None:
        if "/masks/" in uri:
            raise StorageError("killed")
        real(self, uri)

    monkeypatch.setattr(LocalStore, "delete", delete)
    with pytest.raises(StorageError):
        remove_stale(STORE, out, _plan(), listed, sums, "ImageTimeout")
    monkeypatch.undo()
    sums = _sums(out)
    sums.close(SOURCES, 0, sums.begin())
    assert len(list(Path(out, "failures").iterdir())) == 3
    assert _is_true(out, sums)


# --- two attempts ----------------------------------------------------------------------------------------------


def test_two_attempts_that_end_at_once_leave_what_is_true(out: str) -> None:
    one, other = _sums(out), _sums(out)
    listed = one.begin()
    other.begin()
    other.totals.add(commit(STORE, out, made_up_footer(8)), made_up_footer(8))
    one.close(SOURCES, 0, listed)
    other.totals.add(commit(STORE, out, made_up_footer(9)), made_up_footer(9))
    other.close(SOURCES, 0)
    assert _is_true(out, other)


def test_an_attempt_beside_a_redo_does_not_read_all_again(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes on with sums in which parts are that the other takes out: it begins again with the other's checkpoint."""
    one, other = _sums(out), _sums(out)
    listed = one.begin()
    one.read(listed)
    remove_stale(STORE, out, _plan(), other.begin(), other, "ImageTimeout")
    one.save()  # the parts that it holds are gone: the other's stays
    with asked(monkeypatch, out) as calls:
        one.close(SOURCES, 0)
    assert len(_masks_read(calls)) == 0
    assert _is_true(out, one)
    assert np.array_equal(one.totals.parts.arrays()[0], other.totals.parts.arrays()[0])
