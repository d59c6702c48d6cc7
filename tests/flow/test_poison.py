"""Images that kill or hang whoever decodes them: found, written down, and everything beside them labelled."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Finished
from tests.support.parquets import parquet_bytes
from tests.support.poison.sitecustomize import CRASHES, HANGS, STUCK, UNPACKED
from tests.support.runs import read_rows
from tests.support.tars import photos, tar_bytes

FLAGS = ("--weights", "bundled", "--short-side", "64", "--part-images", "8", "--workers", "2")
POISONED = {"MASKFLEET_TEST_POISON": "1", "PYTHONPATH": str(ROOT / "tests" / "support" / "poison")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two tars of 12; in the first three images are poison, two of them in one part."""
    members = [list(photos(12, first=1)), list(photos(12, first=20))]
    for at, poison in ((2, CRASHES), (5, HANGS), (9, CRASHES)):
        name, data = members[0][at]
        members[0][at] = (name, data + poison)
    for number, images in enumerate(members):
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(images))
    return tmp_path


def test_poison_is_quarantined_and_the_rest_is_labelled(source: Path, tmp_path: Path, job: Callable[..., Finished]) -> None:
    out = tmp_path / "out"
    arguments = ("--input", source / "*.tar", "--output", out, *FLAGS, "--image-timeout-s", 3, "--failure-budget", 1)
    done = job("segment", *arguments, env=POISONED)
    assert done.code == 0, done.err
    rows = read_rows(out)
    assert len(rows.keys) == len(set(rows.keys)) == 24
    assert len(rows.masks) == 21
    reasons = {(row["index"], row["error"], row["message"]) for row in rows.failures}
    assert reasons == {
        (2, "KillsItsProcess", "its decoder ended the process: SIGSEGV"),
        (5, "ImageTimeout", "decoding took longer than --image-timeout-s 3"),
        (9, "KillsItsProcess", "its decoder ended the process: SIGSEGV"),
    }
    assert Counter(row["stage"] for row in rows.failures) == {"decode": 3}
    again = job("segment", *arguments, env=POISONED)
    assert again.code == 0, "what is written down is not tried again"
    assert "0 inferred" in again.out or job("verify", out, "--deep").code == 0


def test_a_row_that_kills_whoever_unpacks_it_costs_its_row_group(tmp_path: Path, job: Callable[..., Finished]) -> None:
    """And a poisoned image behind it is found as in a tar."""
    images = [data for _, data in photos(12)]
    images[5] += UNPACKED
    images[9] += CRASHES
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(images))
    out = tmp_path / "out"
    done = job("segment", "--input", tmp_path / "x.parquet", "--output", out, *FLAGS, "--failure-budget", 1, env=POISONED)
    assert done.code == 0, done.err
    rows = read_rows(out)
    assert len(rows.keys) == len(set(rows.keys)) == 12
    assert [(row["index"], row["error"]) for row in sorted(rows.failures, key=lambda row: row["index"])] == [
        (5, "DamagedRowGroup"), (6, "DamagedRowGroup"), (7, "DamagedRowGroup"), (9, "KillsItsProcess"),
    ]  # fmt: skip
    assert {row["message"] for row in rows.failures if row["stage"] == "read"} == {
        "row group 1 is damaged: it ends the process that unpacks it: SIGSEGV"
    }


def test_a_run_that_does_not_get_on_ends_and_says_where_it_stood(tmp_path: Path, job: Callable[..., Finished]) -> None:
    """A row that is never read to its end: no image's time limit counts there, as a store may be slow."""
    images = [data for _, data in photos(4)]
    images[2] += STUCK
    (tmp_path / "x.parquet").write_bytes(parquet_bytes(images))
    arguments = ("--input", tmp_path / "x.parquet", "--output", tmp_path / "out", *FLAGS)
    done = job("segment", *arguments, "--image-timeout-s", 2, "--idle-minutes", 0.1, env=POISONED)
    assert done.code == 5, done.err
    assert "no image was labelled for 0.1 minutes" in done.err
    assert "Traceback" not in done.err
