"""The sums of an attempt: what is read for them, what they come to if parts come, go, and are made anew meanwhile."""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import Damaged, StorageError
from pipeline.output.footer import PartFooter, failures_bytes
from pipeline.output.parts import PartName, PartTable, list_parts, source_digest
from pipeline.output.run_view import list_planned
from pipeline.plan.plan import Plan, PlanFile
from pipeline.shards.base import SourceObject
from pipeline.storage.local import LocalStore
from pipeline.sums import sums as room
from pipeline.sums.checkpoint import NAME
from pipeline.sums.derived import FailureFiles, read_totals, write_derived
from pipeline.sums.obsolete import remove_obsolete
from pipeline.sums.sums import Sums
from pipeline.sums.totals import Totals
from tests.support.asked import asked
from tests.support.made_up import CLASSES, FINGERPRINT, commit, made_up_footer, make_anew

STORE = LocalStore()
SHARD = SourceObject(uri="/in/a.tar", kind="tar", size=1000, version="etag:1")
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
    return read_totals(STORE, out, list_parts(STORE, out), Totals(CLASSES), FINGERPRINT)


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
    monkeypatch.setattr("pipeline.sums.derived.FOOTER_READERS", 4)
    for number in range(40):
        commit(STORE, str(tmp_path), made_up_footer(number))
    with asked(monkeypatch, tmp_path) as calls:
        ahead = []
        read_totals(
            STORE,
            str(tmp_path),
            list_parts(STORE, str(tmp_path)),
            Totals(CLASSES),
            FINGERPRINT,
            lambda *_: ahead.append(len(_masks_read(calls))),
        )
    assert ahead[0] <= 2 * 4 + 1 + 1
    assert ahead[-1] == 40


# --- in the background -----------------------------------------------------------------------------------------


def test_it_is_saved_now_and_then(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SAVE_S", 0.02)
    sums = _sums(out)
    with sums.kept(sums.begin(), SOURCES):
        for number in (8, 9):
            sums.totals.add(commit(STORE, out, made_up_footer(number)), made_up_footer(number))
            while pq.read_metadata(Path(out, NAME)).num_rows < number + 1:
                time.sleep(0.01)
    again = _sums(out)
    again.begin()
    assert again.totals.same_sums(_truth(out))


# --- sums that are broken off, and parts that are not of this run ----------------------------------------------


class _Stopped(BaseException):
    """What a signal handler raises."""


class _Stops(Counter[str]):
    def __pos__(self) -> Counter[str]:
        raise _Stopped


def test_a_stop_while_a_part_is_added_leaves_no_checkpoint_of_half_of_it(out: str) -> None:
    before, sums = Path(out, NAME).read_bytes(), _sums(out)
    listed = sums.begin()
    sums.totals.errors = _Stops(sums.totals.errors)
    with pytest.raises(_Stopped):
        sums.close(SOURCES, 0, listed)
    sums.totals.errors = Counter(sums.totals.errors)
    sums.save()
    assert Path(out, NAME).read_bytes() == before
    sums.close(SOURCES, 0, listed)  # who goes on with them begins again
    assert _is_true(out, sums)


def test_an_error_while_parts_are_counted_in_the_background_is_not_the_end_of_the_sums(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums, real = _sums(out), Totals.add
    died: list[object] = []
    monkeypatch.setattr("threading.excepthook", died.append)

    def add(self: Totals, name: PartName, footer: PartFooter) -> None:
        monkeypatch.setattr(Totals, "add", real)
        real(self, name, replace(footer, histograms=footer.histograms[:2]))

    listed = sums.begin()
    monkeypatch.setattr(Totals, "add", add)
    with sums.kept(listed, SOURCES):
        while Totals.add is not real:
            time.sleep(0.01)
    sums.close(SOURCES, 0, listed)
    assert _is_true(out, sums)
    assert not died


def test_torn_sums_are_made_whole_while_others_label(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = _sums(out)
    listed = sums.begin()
    sums.totals.errors = _Stops(sums.totals.errors)
    with pytest.raises(_Stopped):
        sums.totals.add(next(part for part in listed.parts() if part.first == 24), made_up_footer(6))
    sums.totals.errors = Counter(sums.totals.errors)
    monkeypatch.setattr(room, "SAVE_S", 0.05)
    with sums.kept(listed, SOURCES):
        until = time.monotonic() + 10
        while pq.read_metadata(Path(out, NAME)).num_rows < 8 and time.monotonic() < until:
            time.sleep(0.01)
    assert pq.read_metadata(Path(out, NAME)).num_rows == 8
    sums.close(SOURCES, 0)
    assert _is_true(out, sums)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_part_of_another_run_is_damage_and_not_counted(out: str, classes: int) -> None:
    footer = made_up_footer(8)
    other = replace(
        footer, fingerprint="0" * 64, histograms=footer.histograms[:classes], images_by_class=footer.images_by_class[:classes],
        pixels_by_class=footer.pixels_by_class[:classes],
    )  # fmt: skip
    name, sums = commit(STORE, out, other), _sums(out)
    listed = sums.begin()
    with sums.kept(listed, SOURCES):
        pass
    with pytest.raises(Damaged, match=f"masks/{name}: .*other settings"):
        sums.close(SOURCES, 0, listed)
    assert len(sums.totals.parts) <= 8


# --- parts that another attempt makes and removes --------------------------------------------------------------


def test_a_part_that_is_made_anew_with_the_same_size_is_not_counted_as_it_was(out: str) -> None:
    """What a report said of a part that another attempt's `--redo` has removed and made anew meanwhile is not the truth."""
    sums = _sums(out)
    listed = sums.begin()
    name = commit(STORE, out, made_up_footer(8, error="ImageTimeout"))
    sums.totals.add(name, made_up_footer(8, error="ImageTimeout"))  # the report
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
        kept = remove_obsolete(STORE, out, _plan(), listed, sums, "ImageTimeout")
    redone = [str(made_up_footer(number, error="x").name) for number in (4, 5)]
    assert {call for call in calls if call.startswith("delete")} == {
        f"delete {folder}/{name}" for folder in ("masks", "failures") for name in redone
    }
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
        assert remove_obsolete(STORE, out, _plan(), sums.begin(), sums, "KillsItsProcess").part_count == 8
    assert not _masks_read(calls)
    assert not any(call.startswith(("delete", "replace")) for call in calls)


def test_redo_needs_no_files_of_failures(out: str) -> None:
    """They are derived: a worker may have died before it wrote one, and users remove what can be made again."""
    for path in Path(out, "failures").iterdir():
        path.unlink()
    sums = _sums(out)
    kept = remove_obsolete(STORE, out, _plan(), sums.begin(), sums, "ImageTimeout")
    assert kept.part_count == 6
    assert [name.first for name in kept.parts()] == [0, 4, 8, 12, 24, 28]


def test_a_part_whose_sums_cannot_be_taken_out_makes_all_be_counted_again(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = _sums(out)
    listed = sums.begin()

    def damaged(*_: object) -> None:
        raise Damaged("no footer")

    with monkeypatch.context() as here:
        here.setattr("pipeline.output.run_view.read_footer", damaged)
        plan = _plan()
        plan.shards, plan.replaced = {}, [SHARD]
        kept = remove_obsolete(STORE, out, plan, listed, sums)
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
    kept = remove_obsolete(STORE, out, plan, sums.begin(), sums)
    assert set(kept) == SOURCES
    assert sums.totals.images == 8 * 4
    assert sums.totals.is_exactly(kept.part_keys)
    assert Path(out, "masks", str(name)).exists() is not replaced
    assert not sums.are_written(kept, 0)
    sums.close(SOURCES, 0, kept)
    again = _sums(out)
    kept = remove_obsolete(STORE, out, plan, again.begin(), again)
    assert again.totals.same_sums(sums.totals)
    assert again.are_written(kept, 0)


def test_parts_of_no_planned_source_are_counted_by_nobody(out: str) -> None:
    other = made_up_footer(0, shard="/in/b.tar")
    commit(STORE, out, other)
    totals = Totals(CLASSES)
    listed = write_derived(STORE, out, SOURCES, totals, FINGERPRINT, 0)
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
        kept = remove_obsolete(STORE, out, plan, list_parts(STORE, out), sums)
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
        remove_obsolete(STORE, out, _plan(), listed, sums, "ImageTimeout")
    monkeypatch.undo()
    sums = _sums(out)
    sums.close(SOURCES, 0, sums.begin())
    assert len(list(Path(out, "failures").iterdir())) == 3
    assert _is_true(out, sums)


def test_two_redos_at_once_remove_each_part_once(out: str) -> None:
    """What the first has made anew, and well, is not what the second has listed."""

    def first() -> None:
        sums = _sums(out)
        remove_obsolete(STORE, out, _plan(), sums.begin(), sums, "ImageTimeout")
        for number in (4, 5):
            sums.totals.add(commit(STORE, out, made_up_footer(number)), made_up_footer(number))
        sums.close(SOURCES, 0)

    second = _sums(out)
    remove_obsolete(STORE, out, _plan(), second.begin(), second, "ImageTimeout", announce=first)
    assert list_parts(STORE, out).part_count == 8
    second.close(SOURCES, 0)
    assert _is_true(out, second)


@pytest.mark.parametrize("moment", ["failures", "masks"])
def test_an_attempt_that_reads_beside_a_redo_leaves_no_failures_without_a_part(
    out: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It has read a footer, and makes the file of its failures right after the redo has deleted one of the two."""
    Path(out, NAME).unlink()
    one, redo, real, done = _sums(out), _sums(out), LocalStore.delete, list[str]()
    listed, footer = one.begin(), made_up_footer(4, error="ImageTimeout")
    name = next(part for part in listed.parts() if part.first == footer.first)

    def delete(self: LocalStore, uri: str) -> None:
        real(self, uri)
        if f"/{moment}/{name}" in uri and not done:
            done.append(uri)
            FailureFiles(STORE, out).fill(name, footer)

    monkeypatch.setattr(LocalStore, "delete", delete)
    remove_obsolete(STORE, out, _plan(), redo.begin(), redo, "ImageTimeout")
    assert done
    for number in (4, 5):
        commit(STORE, out, made_up_footer(number))
    redo.close(SOURCES, 0)
    assert [path.name for path in Path(out, "failures").iterdir()] == [str(made_up_footer(1, error="x").name)]
    assert _is_true(out, redo)


@pytest.mark.parametrize("error", ["CorruptImage", None])
@pytest.mark.parametrize("moment", ["create", "stat"])
def test_failures_of_a_part_that_is_made_anew_meanwhile_are_those_of_the_new_one(
    out: str, monkeypatch: pytest.MonkeyPatch, moment: str, error: str | None
) -> None:
    """Right before the file of the part that was read is made, or after."""
    before, anew, real = made_up_footer(4, error="ImageTimeout"), made_up_footer(4, error=error), getattr(LocalStore, moment)
    name = next(part for part in list_parts(STORE, out).parts() if part.first == before.first)
    Path(out, "failures", str(name)).unlink()

    def made_anew(self: LocalStore, uri: str, *arguments: object) -> object:
        monkeypatch.undo()
        make_anew(STORE, out, anew)
        return real(self, uri, *arguments)

    monkeypatch.setattr(LocalStore, moment, made_anew)
    FailureFiles(STORE, out).fill(name, before)
    path = Path(out, "failures", str(name))
    assert (path.read_bytes() if path.exists() else None) == (failures_bytes(anew) if error else None)


def test_a_part_that_is_made_anew_right_after_it_was_removed_keeps_its_failures(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redo, real, footer = _sums(out), LocalStore.delete, made_up_footer(4, error="ImageTimeout")

    def delete(self: LocalStore, uri: str) -> None:
        real(self, uri)
        if uri.endswith(f"/masks/{footer.name}"):
            commit(STORE, out, footer)

    listed = redo.begin()
    monkeypatch.setattr(LocalStore, "delete", delete)
    remove_obsolete(STORE, out, _plan(), listed, redo, "ImageTimeout")
    assert Path(out, "failures", str(footer.name)).read_bytes() == failures_bytes(footer)


def test_failures_files_that_are_missing_are_made_many_at_once(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8, 40):
        commit(STORE, out, made_up_footer(number, error="CorruptImage"))
    shutil.rmtree(Path(out, "failures"))
    real, at_once, most = LocalStore.create, [0], [0]
    lock = threading.Lock()

    def create(self: LocalStore, uri: str, data: bytes) -> str | None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1
        return real(self, uri, data)

    sums = _sums(out)
    listed = sums.begin()
    monkeypatch.setattr(LocalStore, "create", create)
    monkeypatch.setattr(LocalStore, "replace", create)
    sums.read(listed)
    assert len(list(Path(out, "failures").iterdir())) == 32
    assert most[0] > 4


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
    remove_obsolete(STORE, out, _plan(), other.begin(), other, "ImageTimeout")
    one.save()  # the parts that it holds are gone: the other's stays
    with asked(monkeypatch, out) as calls:
        one.close(SOURCES, 0)
    assert len(_masks_read(calls)) == 0
    assert _is_true(out, one)
    assert np.array_equal(one.totals.parts.arrays()[0], other.totals.parts.arrays()[0])


def test_a_checkpoint_that_is_saved_while_the_parts_are_listed_is_used(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _sums(out)
    one.close(SOURCES, 0, one.begin())

    def raced(store: LocalStore, place: str) -> PartTable:
        monkeypatch.undo()
        listed = list_parts(store, place)
        one.totals.add(commit(STORE, out, made_up_footer(8)), made_up_footer(8))
        one.save()
        return listed

    other = _sums(out)
    monkeypatch.setattr("pipeline.sums.sums.list_parts", raced)
    listed = other.begin()
    assert listed.part_count == 9
    assert other.totals.is_exactly(listed.part_keys)


def test_one_whose_parts_are_gone_is_listed_for_once_more_and_then_given_up(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(out, "masks", str(made_up_footer(0).name)).unlink()
    sums = _sums(out)
    with asked(monkeypatch, out) as calls:
        listed = sums.begin()
    assert calls.count("walk masks/") == 2
    assert len(sums.totals.parts) == 0
    sums.close(SOURCES, 0, listed)
    assert _is_true(out, sums)


@pytest.mark.parametrize("of_other", [True, False])
def test_what_another_attempt_has_counted_is_not_read_again(out: str, monkeypatch: pytest.MonkeyPatch, of_other: bool) -> None:
    """At the end, beside a larger attempt; but not for a few, or if this one knows as many."""
    monkeypatch.setattr("pipeline.sums.derived._MANY", 10, raising=False)
    one, other = _sums(out), _sums(out)
    one.close(SOURCES, 0, one.begin())
    other.begin()
    for number in range(8, 28):
        name = commit(STORE, out, made_up_footer(number))
        if of_other:
            other.totals.add(name, made_up_footer(number))
    other.save()
    one.totals.add(commit(STORE, out, made_up_footer(28)), made_up_footer(28))
    with asked(monkeypatch, out) as calls:
        one.close(SOURCES, 0)
    assert len(_masks_read(calls)) == (1 if of_other else 20)
    assert _is_true(out, one)


def test_beside_an_attempt_that_goes_on_one_round_is_enough(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listings = list[int]()

    def listed(store: LocalStore, place: str) -> PartTable:
        if len(listings) < 4:
            commit(STORE, out, made_up_footer(8 + len(listings)))
        listings.append(len(listings))
        return list_parts(store, place)

    monkeypatch.setattr("pipeline.output.run_view.list_parts", listed)
    sums = _sums(out)
    found = sums.close(SOURCES, 0, sums.begin(), has_remaining=lambda table: table.part_count < 30)
    assert len(listings) == 1
    assert sums.totals.is_exactly(found.part_keys)  # not of the part that came in between
    assert found.part_count == 8
    assert sums.totals.same_sums(read_totals(STORE, out, found, Totals(CLASSES), FINGERPRINT))
    found = sums.close(SOURCES, 0, found, has_remaining=lambda table: table.part_count < 10)
    assert found.part_count == 12  # nothing is left, as far as is known: until no part comes in between
    assert len(listings) == 5
    assert sums.totals.is_exactly(found.part_keys)


@pytest.mark.parametrize("has_them", [True, False])
def test_after_a_removal_by_another_attempt_it_is_saved_again(out: str, monkeypatch: pytest.MonkeyPatch, has_them: bool) -> None:
    """Once the parts that are gone have left its own sums, if it had them."""
    _sums(out).close(SOURCES, 0)
    one, redo = _sums(out), _sums(out)
    listed = one.begin()
    remove_obsolete(STORE, out, _plan(), redo.begin(), redo, "ImageTimeout")
    if not has_them:
        gone = [replace(name, version=name.version) for name in listed.parts() if name.first in (16, 20)]
        for name, number in zip(gone, (4, 5), strict=True):
            assert one.totals.remove(name, made_up_footer(number, error="ImageTimeout"))
    monkeypatch.setattr(room, "SAVE_S", 0.05)
    with one.kept(list_parts(STORE, out), SOURCES):
        until = time.monotonic() + 10
        for number in range(8, 12):
            one.totals.add(commit(STORE, out, made_up_footer(number)), made_up_footer(number))
        while pq.read_metadata(Path(out, NAME)).num_rows < 10 and time.monotonic() < until:
            time.sleep(0.01)
    assert pq.read_metadata(Path(out, NAME)).num_rows == 10
    again = _sums(out)
    again.begin()
    assert again.totals.is_same(_truth(out))
    one.close(SOURCES, 0)
    assert _is_true(out, one)


def test_parts_that_come_while_another_attempts_removal_is_looked_at_are_not_read_again(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of a million parts takes a minute, in which there is always one."""
    _sums(out).close(SOURCES, 0)
    one, redo = _sums(out), _sums(out)
    listed = one.begin()
    remove_obsolete(STORE, out, _plan(), redo.begin(), redo, "ImageTimeout")
    for name, number in zip([name for name in listed.parts() if name.first in (16, 20)], (4, 5), strict=True):
        assert one.totals.remove(name, made_up_footer(number, error="ImageTimeout"))
    for number in range(8, 12):
        one.totals.add(commit(STORE, out, made_up_footer(number)), made_up_footer(number))

    def listed_late(*asked: Any) -> PartTable:
        found = list_planned(*asked)
        one.totals.add(commit(STORE, out, made_up_footer(12)), made_up_footer(12))
        return found

    monkeypatch.setattr(room, "list_planned", listed_late)
    monkeypatch.setattr(one, "read", lambda *_: pytest.fail("footers that were counted are read again"))
    one._follow("removal", SOURCES, threading.Event())
    assert len(one.totals.parts) == 11
