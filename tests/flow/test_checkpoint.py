"""The checkpoint in real runs: a rerun, a resume and a redo read and write what is new, and nothing else."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.driver.attempt import Attempt
from pipeline.output.footer import CHECKSUM_KEY, FOOTER_KEY, footer_of
from pipeline.sums.checkpoint import NAME
from pipeline.verify.verify import verify
from tests.support.asked import asked
from tests.support.runs import part_files, parts_in, read_rows, segment, write_tars
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")


def _snapshot(out: Path) -> dict[str, tuple[bytes, int]]:
    files = (file for file in out.rglob("*") if file.is_file())
    return {str(file.relative_to(out)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def _masks_read(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith("read masks/")]


def _with_failures(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar_bytes([*photos(9), ("bad.jpg", b"<html>"), *photos(6, first=20)]))
    (folder / "b.tar").write_bytes(tar_bytes(photos(12, first=40)))
    return folder


def test_a_rerun_of_a_whole_run_lists_once_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = _with_failures(tmp_path / "in"), tmp_path / "out"
    first = segment(source, out, failure_budget=1)
    before = _snapshot(out)
    with asked(monkeypatch, out) as calls:
        again = segment(source, out, failure_budget=1)
    assert _snapshot(out) == before
    assert [call for call in calls if "masks" in call or "failures" in call] == ["walk masks/"]
    assert not any(call.startswith(("create", "replace", "delete")) for call in calls)
    assert again.error is None
    assert again.run["counts"] == first.run["counts"] | {"inferred": 0, "skipped": 28}
    assert {name: again.run[name] for name in ("state", "labels_digest", "errors")} == {
        name: first.run[name] for name in ("state", "labels_digest", "errors")
    }
    assert again.classes == first.classes
    assert segment(source, out, failure_budget=0).error is not None  # which is judged each time


def test_an_output_without_one_gets_it(tmp_path: Path) -> None:
    source, out = write_tars(tmp_path / "in", 2, 6), tmp_path / "out"
    first = segment(source, out)
    (out / NAME).unlink()
    assert verify(str(out)).exit_code == 0
    assert segment(source, out).run["labels_digest"] == first.run["labels_digest"]
    assert pq.read_metadata(out / NAME).num_rows == len(parts_in(out))


def test_a_resume_reads_the_footers_that_came_after_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_tars(tmp_path / "in", 4, 12), tmp_path / "out"
    segment(source, out, limit=16)
    kept = (out / NAME).read_bytes()
    segment(source, out, limit=28)
    (out / NAME).write_bytes(kept)  # as if it had been killed before it wrote its own
    there, counted = len(parts_in(out)), pq.read_metadata(out / NAME).num_rows
    assert (counted, there) == (4, 7)
    with asked(monkeypatch, out) as calls:
        outcome = segment(source, out)
    assert outcome.error is None
    assert len(_masks_read(calls)) == there - counted
    assert calls.count("walk masks/") == 3  # at the start, after the round, and whether more has come
    assert outcome.run["counts"]["images"] == 48
    assert verify(str(out), deep=True).exit_code == 0


def test_a_redo_reads_parts_with_failures_and_leaves_the_sums_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = _with_failures(tmp_path / "in"), tmp_path / "out"
    first, before = segment(source, out, failure_budget=1), part_files(out)
    with asked(monkeypatch, out) as calls:
        again = segment(source, out, failure_budget=1, redo="CorruptImage")
    assert part_files(out) == before
    assert len(set(_masks_read(calls))) == 1  # of seven
    assert again.run["counts"]["inferred"] == 3
    assert again.run["labels_digest"] == first.run["labels_digest"]
    assert verify(str(out), deep=True).exit_code == 0


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_part_that_another_attempt_makes_anew_meanwhile_counts_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: bool
) -> None:
    """Between round and sums another attempt redoes a part that this one has a report for, and it comes out otherwise."""
    source, out = _with_failures(tmp_path / "in"), tmp_path / "out"
    real = Attempt._label

    def label_beside_a_redo(self: Attempt, plan: object) -> str | None:
        reason = real(self, plan)  # type: ignore[arg-type]
        monkeypatch.setattr(Attempt, "_label", real)
        assert self._begun is not None
        if checkpoint:
            self._begun.sums.save()
        (failed,) = (out / "failures").iterdir()
        # The same name and size; its bad image has become a failure of another class, whose name is as long.
        data = (out / "masks" / failed.name).read_bytes()
        _as_another_class(out / "masks" / failed.name, data)
        failed.unlink()
        return reason

    monkeypatch.setattr(Attempt, "_label", label_beside_a_redo)
    outcome = segment(source, out, failure_budget=1)
    assert outcome.run["errors"] == {"ImageTimeout": 1}
    assert [row["error"] for row in read_rows(out).failures] == ["ImageTimeout"]
    assert verify(str(out), deep=True).exit_code == 0


def _as_another_class(file: Path, data: bytes) -> None:
    metadata = pq.read_metadata(file).metadata
    text = metadata[FOOTER_KEY]
    other = text.replace(b"CorruptImage", b"ImageTimeout")
    assert len(other) == len(text)
    changed = data.replace(text, other).replace(metadata[CHECKSUM_KEY], hashlib.sha256(other).hexdigest().encode())
    file.unlink()
    file.write_bytes(changed)
    assert footer_of(pq.read_metadata(file).metadata).failures[0].error == "ImageTimeout"


def test_two_attempts_at_once_leave_one_that_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_tars(tmp_path / "in", 2, 8), tmp_path / "out"
    real = Attempt._sum_up

    def sum_up_beside_another(self: Attempt, plan: object, reason: str | None) -> object:
        monkeypatch.setattr(Attempt, "_sum_up", real)
        write_tars(source, 1, 8, first=5)
        segment(source, out)
        return real(self, plan, reason)  # type: ignore[arg-type]

    monkeypatch.setattr(Attempt, "_sum_up", sum_up_beside_another)
    assert segment(source, out).run["counts"]["images"] == 24
    assert pq.read_metadata(out / NAME).num_rows == len(parts_in(out)) == 6
    before = _snapshot(out)
    assert segment(source, out).run["counts"]["inferred"] == 0
    assert _snapshot(out) == before
