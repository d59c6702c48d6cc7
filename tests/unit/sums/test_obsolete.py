"""What has to go before a run goes on, and nothing that another attempt has just made."""

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.output.parts import list_parts
from pipeline.plan.plan import Plan, read_plan
from pipeline.storage.local import LocalStore
from pipeline.sums.obsolete import remove_obsolete
from pipeline.sums.sums import Sums
from tests.support.labelled import label
from tests.support.overtaken import Overtaken
from tests.support.runs import part_files
from tests.support.tars import photos, tar_bytes

STORE = LocalStore()


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(tar_bytes(photos(3)))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _plan(out: Path) -> Plan:
    plan = read_plan(STORE, str(out))
    assert plan is not None
    return plan


def _removed(out: Path, plan: Plan, store: LocalStore = STORE, **options: Any) -> list[str]:
    """What `remove_obsolete` removes, by listing before and after."""
    before = {str(name) for name in list_parts(STORE, str(out)).parts()}
    sums = Sums(store, str(out), plan.settings["fingerprint"], tuple(plan.settings["labels"]["classes"]))
    kept = remove_obsolete(store, str(out), plan, sums.begin(), sums, **options)
    assert sums.totals.is_within(kept.part_keys)
    return sorted(before - {str(name) for name in list_parts(STORE, str(out)).parts()})


def _another(tar: Path, first: int) -> Path:
    other = tar.with_name(f"{first}.tar")
    other.write_bytes(tar_bytes(photos(3, first=first)))
    return other


def test_parts_of_an_attempt_that_came_after_the_plan_was_read_stay(tar: Path, out: Path) -> None:
    label([tar], out)
    plan = _plan(out)
    label([tar, _another(tar, 20)], out)  # another attempt, which adds a plan file and commits
    there = part_files(out)
    assert _removed(out, plan) == []
    assert part_files(out) == there


def test_parts_of_a_source_that_no_plan_names_stay(tar: Path, out: Path, tmp_path: Path) -> None:
    label([tar], out)
    label([_another(tar, 20)], tmp_path / "other")
    for name, data in part_files(tmp_path / "other").items():
        (out / "masks" / name).write_bytes(data)
    there = part_files(out)
    assert _removed(out, _plan(out)) == []
    assert part_files(out) == there


def _relabelled(tar: Path, out: Path) -> tuple[set[str], set[str]]:
    """Names of the parts of the object before, and of the one after it was changed."""
    label([tar], out)
    before = set(part_files(out))
    tar.write_bytes(tar_bytes(photos(4, first=30)))
    label([tar], out, relabel_changed=True)
    return before, set(part_files(out)) - before


def test_parts_of_a_shard_that_changed_go(tar: Path, out: Path) -> None:
    before, after = _relabelled(tar, out)
    announced: list[set[str]] = []
    gone = _removed(out, _plan(out), announce=lambda: announced.append(set(part_files(out))))
    assert set(gone) == before
    assert set(part_files(out)) == after
    assert announced == [before | after]  # before the first is removed, and once
    assert _removed(out, _plan(out), announce=lambda: announced.append(set())) == []
    assert len(announced) == 1


def test_parts_of_a_shard_that_changed_back_meanwhile_stay(tar: Path, out: Path) -> None:
    data, status = tar.read_bytes(), tar.stat()
    before, after = _relabelled(tar, out)
    plan = _plan(out)  # which says that the object before is replaced

    tar.write_bytes(data)
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    label([tar], out, relabel_changed=True)
    there = part_files(out)
    assert set(there) == before | after
    assert _removed(out, plan) != []
    assert set(part_files(out)) == before


def test_a_replaced_row_of_a_single_image_takes_its_part_along(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, data in photos(4):
        (source / name).write_bytes(data)
    label([source], out)
    before = part_files(out)
    victim = sorted(source.iterdir())[1]
    victim.write_bytes(photos(1, first=50)[0][1])
    label([source], out, relabel_changed=True)
    gone = _removed(out, _plan(out))
    assert gone == [min(before)]


def test_redo_takes_the_parts_with_such_failures_and_minds_no_other_redo(tar: Path, out: Path) -> None:
    tar.write_bytes(tar_bytes([*photos(2), ("x.jpg", b"<html>"), *photos(3, first=9)]))
    label([tar], out)
    there = part_files(out)
    assert _removed(out, _plan(out), redo="MissingImage") == []
    names = sorted(there)
    store = Overtaken({("read", names[0]): (out / "masks" / names[0]).unlink})  # the other was first
    gone = _removed(out, _plan(out), store, redo="CorruptImage")
    assert gone == names[:2]  # one of them by the other
    assert not store.moments
