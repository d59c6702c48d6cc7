"""`verify --repair`: what is broken goes, what is whole stays as it is, and the next run makes the rest as it was."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.verify import main
from pipeline.errors import NewerFormat
from pipeline.labels.png import decode_png, encode_mask
from pipeline.output.footer import failures_bytes
from pipeline.output.parts import PartName
from pipeline.storage.local import LocalStore
from pipeline.verify.repair import repair
from pipeline.verify.verify import Verification, verify
from tests.support.labelled import Part, change_run, label, overlapping, parts_of


def _files(out: Path) -> dict[str, bytes]:
    """All that a run leaves, but for run.json, which tells of times."""
    found = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.parquet")}
    return {name: data for name, data in found.items() if ".tmp" not in name}


def _first(out: Path) -> Part:
    return parts_of(out, "a.tar")[0]


def _flip(out: Path) -> str:
    part = _first(out)
    data = bytearray(part.file.read_bytes())
    data[len(data) // 2] ^= 1
    part.file.write_bytes(data)
    return part.object


def _truncate(out: Path) -> str:
    part = parts_of(out, "bad.tar")[-1]  # it has a failure
    part.file.write_bytes(part.file.read_bytes()[:-1])
    return part.object


def _empty(out: Path) -> str:
    part = parts_of(out, "plan")[0]
    part.file.write_bytes(b"")
    return part.object


def _twice(out: Path) -> str:
    part = _first(out)
    name = PartName.parse(part.file.name, part.file.stat().st_size)
    assert name is not None
    shutil.copy(part.file, part.file.with_name(str(replace(name, rows=3, max_rows=0))))
    return f"masks/{replace(name, rows=3, max_rows=0)}"


def _overlap(out: Path) -> str:
    return f"masks/{overlapping(_first(out)).name}"


def _behind_the_end(out: Path) -> str:
    part = parts_of(out, "a.tar")[-1]
    name = PartName.parse(part.file.name, part.file.stat().st_size)
    assert name is not None
    shutil.copy(part.file, part.file.with_name(str(replace(name, first=name.stop))))
    return f"masks/{replace(name, first=name.stop)}"


def _of_no_source(out: Path) -> str:
    name = f"{'0' * 24}-0000000000-00002-last.parquet"
    shutil.copy(_first(out).file, out / "masks" / name)
    return f"masks/{name}"


def _other_settings(out: Path) -> str:
    _first(out).write(fingerprint="0" * 64)
    return _first(out).object


def _wrong_shard(out: Path) -> str:
    part = _first(out)
    part.write([part.rows[0], part.rows[1] | {"shard": "/elsewhere.tar"}])
    return part.object


def _histograms(out: Path) -> str:
    part = _first(out)
    part.write(histograms=np.roll(part.footer.histograms, 1, axis=0))
    return part.object


def _other_pixels(out: Path) -> str:
    part = _first(out)
    mask = decode_png(part.rows[0]["mask"]["bytes"])[::-1, ::-1].copy()
    part.write([part.rows[0] | {"mask": {"bytes": encode_mask(mask), "path": None}}, *part.rows[1:]])
    return part.object


BROKEN = (
    _flip, _truncate, _empty, _twice, _overlap, _behind_the_end, _of_no_source, _other_settings, _wrong_shard, _histograms,
    _other_pixels,
)  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__.strip("_"))
def test_a_broken_part_goes_and_the_next_run_makes_it_as_it_was(source: Path, out: Path, damage: Callable[[Path], str]) -> None:
    before = _files(out)
    broken = damage(out)
    done = repair(str(out), deep=True)
    assert {finding.object for finding in done.removed} == {broken}
    lost = broken in before
    assert done.now.exit_code == (5 if lost else 0)
    assert json.loads((out / "run.json").read_text())["state"] == ("incomplete" if lost else "complete")
    now, of_failures = _files(out), broken.replace("masks/", "failures/")
    assert {name: data for name, data in now.items() if before.get(name) != data} == {}
    assert before.keys() - now.keys() <= {broken, of_failures}
    label([source], out)
    assert _files(out) == before
    assert verify(str(out), deep=True).exit_code == 0


def _lying_failures(out: Path) -> str:
    part = parts_of(out, "bad.tar")[-1]
    (failure,) = part.footer.failures
    lie = replace(part.footer, failures=(replace(failure, message="all is well"),))
    (out / "failures" / part.file.name).write_bytes(failures_bytes(lie))
    return f"failures/{part.file.name}"


def _no_failures(out: Path) -> str:
    name = f"failures/{parts_of(out, 'bad.tar')[-1].file.name}"
    (out / name).unlink()
    return name


def _failures_of_nothing(out: Path) -> str:
    name = f"failures/{_first(out).file.name}"
    shutil.copy(next((out / "failures").iterdir()), out / name)
    return name


def _lying_sums(out: Path) -> str:
    shutil.copy(next((out / "failures").iterdir()), out / "class_stats.parquet")
    return "class_stats.parquet"


def _no_sums(out: Path) -> str:
    (out / "class_stats.parquet").unlink()
    return "class_stats.parquet"


def _lying_counts(out: Path) -> str:
    change_run(out, lambda run: run["counts"].update(images=99))
    return "run.json"


def _lying_digest(out: Path) -> str:
    change_run(out, lambda run: run.update(labels_digest="0" * 64))
    return "run.json"


def _no_run_json(out: Path) -> str:
    (out / "run.json").unlink()
    return "run.json"


def _half_a_run_json(out: Path) -> str:
    (out / "run.json").write_text('{"state": "comp')
    return "run.json"


DERIVED = (
    _lying_failures, _no_failures, _failures_of_nothing, _lying_sums, _no_sums, _lying_counts, _lying_digest, _no_run_json,
    _half_a_run_json,
)  # fmt: skip


@pytest.mark.parametrize("damage", DERIVED, ids=lambda damage: damage.__name__.strip("_"))
def test_derived_files_are_made_again(out: Path, damage: Callable[[Path], str]) -> None:
    before, said = _files(out), json.loads((out / "run.json").read_text())
    name = damage(out)
    assert verify(str(out)).exit_code == 7
    done = repair(str(out))
    assert (done.removed, done.made) == ((), (name,))
    assert done.now.exit_code == 0
    assert _files(out) == before
    now = json.loads((out / "run.json").read_text())
    if "input" not in now:  # neither plan nor parts know of it
        del said["input"]
    assert {key: now[key] for key in said} == said


def test_failures_are_put_right_where_a_part_is_missing_too(source: Path, out: Path) -> None:
    before = _files(out)
    name = _lying_failures(out)
    _first(out).file.unlink()
    _flip(out)
    done = repair(str(out))
    assert name in done.made
    assert done.now.exit_code == 5
    label([source], out)
    assert _files(out) == before


def test_a_whole_run_is_left_as_it_is(out: Path) -> None:
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.rglob("*") if file.is_file()}
    done = repair(str(out), deep=True)
    assert (done.removed, done.made, done.now.exit_code) == ((), (), 0)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("name", ["notes.txt", "model.parquet"])
def test_what_is_no_part_is_left(out: Path, name: str) -> None:
    (out / "masks" / name).write_bytes(b"mine")
    done = repair(str(out))
    assert (done.removed, done.now.exit_code) == ((), 7)
    assert (out / "masks" / name).read_bytes() == b"mine"
    assert "move it away" in str(done.now.advice)  # asking for another repair would lead nowhere


def test_parts_of_a_newer_maskfleet_are_no_damage(out: Path) -> None:
    part = _first(out)
    part.write(format=3)
    data = part.file.read_bytes()
    with pytest.raises(NewerFormat, match="format 3"):
        repair(str(out))
    assert part.file.read_bytes() == data


def test_nothing_is_removed_where_the_plan_is_damaged(out: Path) -> None:
    _flip(out)
    (out / "plan" / "00000.parquet").write_bytes(b"PAR1")
    before = _files(out)
    done = repair(str(out))
    assert (done.removed, done.made, done.now.exit_code) == ((), (), 7)
    assert _files(out) == before


def test_a_part_that_was_made_anew_since_it_was_verified_stays(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a verify of hours: another run may have filled the gap that another repair has made."""
    part = _first(out)
    data = part.file.read_bytes()
    broken = _flip(out)

    def verified(place: str, *, deep: bool) -> Verification:
        found = verify(place, deep=deep)
        assert [finding.object for finding in found.findings] == [broken] or found.exit_code == 0
        part.file.unlink()
        part.file.write_bytes(data)
        return found

    monkeypatch.setattr("pipeline.verify.repair.verify", verified)
    done = repair(str(out))
    assert done.removed == ()
    assert done.now.exit_code == 0
    assert part.file.read_bytes() == data


def test_failures_of_a_part_that_is_made_meanwhile_stay(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part, real = parts_of(out, "bad.tar")[-1], LocalStore.names
    data, failures = part.file.read_bytes(), out / "failures" / part.file.name
    part.file.unlink()

    def names(self: LocalStore, prefix: str) -> Iterator[str]:
        part.file.write_bytes(data)  # its failures are there
        return real(self, prefix)

    monkeypatch.setattr(LocalStore, "names", names)
    assert failures.exists()
    done = repair(str(out))
    assert failures.exists()
    assert done.now.exit_code == 0


def test_the_job(out: Path, tmp_path: Path) -> None:
    broken = _flip(out)
    assert "--repair removes the damaged parts" in str(verify(str(out)).advice)
    result = CliRunner().invoke(main, [str(out), "--repair", "--json", str(tmp_path / "found.json")])
    lines = result.output.splitlines()
    assert result.exit_code == 5
    assert lines[0].startswith(f"removed: {broken}: ")
    assert lines[1] == "made again, or removed as no part's: run.json"
    assert "same segment command again" in lines[-1]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [finding["object"] for finding in found["removed"]] == [broken]
    assert (found["made"], found["state"]) == (["run.json"], "incomplete")
