"""Dirty input: every image is a mask or a failure with its reason, and nothing stops the run."""

from pathlib import Path

import pytest

from pipeline.errors import BudgetExceeded, NotReachable, UsageError
from tests.support.corpus import images, parquets, tars
from tests.support.images import Case
from tests.support.runs import read_rows, segment
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")


def _check(case: Case, image_id: str, masks: dict[str, dict[str, object]], failures: dict[str, dict[str, object]]) -> None:
    if case.outcome == "mask":
        row = masks[image_id]
        assert (row["width"], row["height"]) == case.size, case.name
        assert row["orientation"] == case.orientation, case.name
    else:
        row = failures[image_id]
        assert row["error"] == case.error, case.name
        assert row["stage"] == "decode", case.name
        assert row["message"], case.name


def test_every_case_of_the_corpus_in_one_tar(tmp_path: Path) -> None:
    cases = images()
    (tmp_path / "a.tar").write_bytes(tar_bytes([(case.name, case.data) for case in cases.values()]))
    outcome = segment(tmp_path / "a.tar", tmp_path / "out")
    assert isinstance(outcome.error, BudgetExceeded)
    rows = read_rows(tmp_path / "out")
    assert len(rows.keys) == len(set(rows.keys)) == len(cases)
    masks = {row["image_id"]: row for row in rows.masks}
    failures = {row["image_id"]: row for row in rows.failures}
    for case in cases.values():
        _check(case, case.name.partition(".")[0], masks, failures)


def test_every_case_of_the_corpus_as_files(tmp_path: Path) -> None:
    cases = images()
    source = tmp_path / "in"
    source.mkdir()
    for case in cases.values():
        (source / case.name).write_bytes(case.data)
    (source / "notes.md").write_text("not an image")
    outcome = segment(source, tmp_path / "out", failure_budget=1.0)
    assert outcome.error is None
    assert outcome.run["ignored_objects"] == 1
    rows = read_rows(tmp_path / "out")
    masks = {row["image_id"]: row for row in rows.masks}
    failures = {row["image_id"]: row for row in rows.failures}
    assert masks.keys() | failures.keys() == {case.name for case in cases.values()}
    for case in cases.values():
        _check(case, case.name, masks, failures)


def test_every_tar_of_the_corpus(tmp_path: Path) -> None:
    cases = {name: case for name, case in tars().items() if not name.endswith("gz")}
    source = tmp_path / "in"
    source.mkdir()
    for name, case in cases.items():
        (source / f"{name.removesuffix('.tar')}.tar").write_bytes(case.data)
    outcome = segment(source, tmp_path / "out", failure_budget=1.0, allow_broken_shards=99)
    assert outcome.error is None
    rows = read_rows(tmp_path / "out")
    assert len(rows.keys) == len(set(rows.keys))
    broken = {row["shard"] for row in rows.failures if row["error"] == "BrokenShard"}
    assert broken == {str(source / f"{name.removesuffix('.tar')}.tar") for name, case in cases.items() if case.broken}
    assert outcome.run["counts"]["broken_shards"] == len(broken)
    ambiguous = {row["shard"] for row in rows.failures if row["error"] == "AmbiguousImage"}
    assert ambiguous == {str(source / f"{name.removesuffix('.tar')}.tar") for name, case in cases.items() if case.ambiguous}
    assert segment(source, tmp_path / "out", failure_budget=1.0).error.__class__ is BudgetExceeded  # broken shards cost exit 3


def test_every_parquet_of_the_corpus(tmp_path: Path) -> None:
    cases = parquets()
    source = tmp_path / "in"
    source.mkdir()
    for name, case in cases.items():
        (source / f"{name.removesuffix('.parquet')}.parquet").write_bytes(case.data)
    outcome = segment(source, tmp_path / "out", failure_budget=1.0, allow_broken_shards=99)
    assert outcome.error is None
    rows = read_rows(tmp_path / "out")
    for name, case in cases.items():
        shard = str(source / f"{name.removesuffix('.parquet')}.parquet")
        failures = {row["index"]: row["error"] for row in rows.failures if row["shard"] == shard}
        expected = dict.fromkeys(case.missing, "MissingImage") | dict.fromkeys(case.unreadable, "DamagedRowGroup")
        if not case.footer:
            expected = {0: "BrokenShard"}
        assert failures == expected, name
        labelled = sorted(row["index"] for row in rows.masks if row["shard"] == shard)
        assert labelled == [index for index in range(case.rows if case.footer else 0) if index not in expected], name


def test_an_ambiguous_first_shard_is_exit_2_and_the_flag_decides(tmp_path: Path) -> None:
    both = [(name.replace(".jpg", end), data) for name, data in photos(2) for end in (".jpg", ".png")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(both))
    with pytest.raises(UsageError, match="--image-ext"):
        segment(tmp_path / "a.tar", tmp_path / "out")
    outcome = segment(tmp_path / "a.tar", tmp_path / "out", image_ext="jpg")
    assert outcome.run["counts"]["masks"] == 2


def test_a_shard_that_goes_after_planning_is_one_broken_shard(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in "ab":
        (source / f"{name}.tar").write_bytes(tar_bytes(photos(6)))
    segment(source, tmp_path / "out", limit=4)
    (source / "a.tar").unlink()
    outcome = segment(source, tmp_path / "out")
    assert isinstance(outcome.error, BudgetExceeded)
    failure = read_rows(tmp_path / "out").failure_of(f"{source}/a.tar#4")
    assert (failure["index"], failure["stage"], failure["error"]) == (4, "read", "BrokenShard")


def test_a_list_with_one_uri_that_is_gone(tmp_path: Path) -> None:
    for name, data in photos(3):
        (tmp_path / name).write_bytes(data)
    names = [name for name, _ in photos(3)]
    (tmp_path / "list.csv").write_text(
        "image_path,split\n" + "".join(f"{name},train\n" for name in [*names, "gone.jpg", names[0]])
    )
    outcome = segment(tmp_path / "list.csv", tmp_path / "out", failure_budget=0.5)
    assert outcome.error is None
    assert outcome.run["counts"] == {"images": 4, "masks": 3, "failures": 1, "broken_shards": 0, "inferred": 3, "skipped": 0}
    assert read_rows(tmp_path / "out").failures[0]["error"] == "MissingImage"


def test_an_absent_list_is_exit_4(tmp_path: Path) -> None:
    with pytest.raises(NotReachable):
        segment(tmp_path / "absent.txt", tmp_path / "out")


def test_a_tar_without_images_is_done(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.txt", b"text"), ("b.json", b"{}")]))
    outcome = segment(tmp_path / "a.tar", tmp_path / "out")
    assert outcome.error is None
    assert outcome.run["state"] == "complete"
    assert outcome.run["counts"]["images"] == 0
