"""The checkpoint of a run under `verify` and `--repair`: derived, used as it is, and so it has to be right."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.output.parts import list_parts
from pipeline.plan.plan import read_plan
from pipeline.storage.local import LocalStore
from pipeline.sums import checkpoint as room
from pipeline.sums.checkpoint import NAME, Checkpoint
from pipeline.sums.derived import read_totals
from pipeline.sums.totals import PartSet, Totals
from pipeline.verify.findings import Finding
from pipeline.verify.repair import repair
from pipeline.verify.verify import verify
from tests.support.labelled import label, parts_of

STORE = LocalStore()


def _save(out: Path, change: Callable[[Totals], object] = lambda _: None, parts: int = 1000) -> None:
    """The checkpoint of the first parts, as an attempt leaves it, or with other sums."""
    plan = read_plan(STORE, str(out))
    assert plan is not None
    classes = tuple(plan.settings["labels"]["classes"])
    listed = list_parts(STORE, str(out))
    totals = Totals(classes)
    fingerprint = plan.settings["fingerprint"]
    read_totals(STORE, str(out), listed.only(np.arange(listed.part_count) < parts), totals, fingerprint)
    change(totals)
    assert Checkpoint(STORE, str(out), fingerprint, classes).save(STORE, totals, smaller=True)


@pytest.fixture
def kept(out: Path) -> Path:
    """A whole run with its checkpoint."""
    _save(out)
    return out


def _lie(totals: Totals) -> None:
    """As a fault of an attempt would leave them: nothing contradicts itself."""
    totals.histograms[0, 255] += 1
    totals.pixels_by_class[0] += 1
    totals.pixels += 1


def test_a_whole_run_with_its_checkpoint_is_whole(kept: Path) -> None:
    assert verify(str(kept), deep=True).findings == ()


def test_an_older_one_is_whole_too(out: Path) -> None:
    _save(out, parts=2)
    assert verify(str(out)).findings == ()


@pytest.mark.parametrize("parts", [2, 1000])
def test_sums_that_are_not_those_of_its_parts_are_found_and_made_again(out: Path, parts: int) -> None:
    _save(out, _lie, parts)
    found = verify(str(out))
    assert (found.exit_code, found.findings) == (7, (Finding(NAME, "not the sums of its parts", "derived"),))
    done = repair(str(out))
    assert (done.removed, done.made, done.now.exit_code) == ((), (NAME,), 0)
    assert pq.read_metadata(out / NAME).num_rows == len(list((out / "masks").iterdir()))


def test_a_digest_that_is_not_that_of_its_parts_is_found(out: Path) -> None:
    _save(out, lambda totals: setattr(totals, "digest", totals.digest ^ 1))
    assert [finding.object for finding in verify(str(out)).findings] == [NAME]


def test_masks_and_failures_that_are_those_of_other_parts_are_found(out: Path) -> None:
    """The sums are right; a redo would ask the wrong parts."""

    def turn(totals: Totals) -> None:
        keys, counts = totals.parts.arrays()
        totals.parts = PartSet(keys, counts[::-1].copy())
        assert not np.array_equal(counts, counts[::-1])

    _save(out, turn)
    assert verify(str(out)).findings == (Finding(NAME, "not the sums of its parts", "derived"),)
    assert repair(str(out)).made == (NAME,)
    assert verify(str(out)).exit_code == 0


@pytest.mark.parametrize("data", [b"", b"PAR1"])
def test_a_damaged_one_is_no_reason_not_to_go_on(kept: Path, data: bytes) -> None:
    """Exit 5, which a scheduler runs again: the next attempt ignores and replaces it."""
    parts_of(kept, "a.tar")[0].file.unlink()
    (kept / NAME).write_bytes(data)
    assert verify(str(kept)).exit_code == 5
    done = repair(str(kept))
    assert NAME in done.made
    assert done.now.exit_code == 5


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 1000])
def test_a_damaged_one_is_found_and_made_again(kept: Path, data: bytes) -> None:
    (kept / NAME).write_bytes(data)
    (finding,) = verify(str(kept)).findings
    assert (finding.object, finding.kind) == (NAME, "derived")
    assert repair(str(kept)).made == (NAME,)
    assert verify(str(kept)).exit_code == 0


def test_it_is_judged_in_a_run_that_has_not_ended_as_well(out: Path) -> None:
    parts_of(out, "a.tar")[0].file.unlink()
    _save(out, _lie)
    assert verify(str(out)).exit_code == 7
    done = repair(str(out))
    assert NAME in done.made
    assert done.now.exit_code == 5


@pytest.mark.parametrize("change", ["removed", "copied"])
def test_one_that_is_of_parts_that_are_not_there_is_used_by_nobody_and_so_no_finding(kept: Path, change: str) -> None:
    _save(kept, _lie)
    file = parts_of(kept, "a.tar")[0].file
    if change == "removed":
        file.unlink()
    else:
        os.utime(file, ns=(1, 1))
    assert [finding for finding in verify(str(kept)).findings if finding.object == NAME] == []


def test_a_copy_of_a_run_is_whole(kept: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(kept, tmp_path / "copy", copy_function=shutil.copy)  # with other times
    assert verify(str(copy)).findings == ()


def test_one_of_a_newer_version_is_left(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHECKPOINT_FORMAT", 2)
    _save(kept, _lie)
    monkeypatch.undo()
    data = (kept / NAME).read_bytes()
    assert verify(str(kept)).findings == ()
    (kept / "class_stats.parquet").unlink()
    assert repair(str(kept)).made == ("class_stats.parquet",)
    assert (kept / NAME).read_bytes() == data


def test_after_a_repair_it_is_of_the_parts_that_are_left(source: Path, kept: Path) -> None:
    """Else the next run would read the footers of all."""
    part = parts_of(kept, "a.tar")[0]
    part.file.write_bytes(part.file.read_bytes()[:-1])
    done = repair(str(kept))
    assert NAME in done.made
    plan = read_plan(STORE, str(kept))
    assert plan is not None
    listed = list_parts(STORE, str(kept))
    checkpoint = Checkpoint(STORE, str(kept), plan.settings["fingerprint"], tuple(plan.settings["labels"]["classes"]))
    found, _ = checkpoint.load(listed, lambda: listed)
    assert found is not None
    assert found.is_exactly(listed.part_keys)
    label([source], kept)
    assert verify(str(kept), deep=True).exit_code == 0
    assert json.loads((kept / "run.json").read_text())["state"] == "complete"


def test_repair_makes_none_where_there_was_none(out: Path) -> None:
    (out / "class_stats.parquet").unlink()
    assert repair(str(out)).made == ("class_stats.parquet",)
    assert not (out / NAME).exists()
