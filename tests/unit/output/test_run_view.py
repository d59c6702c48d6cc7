"""A run as its readers see it: planned rows only, each once, in the order of the plan."""

import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import NotReachable
from pipeline.output.footer import PartFooter, read_footer
from pipeline.output.parts import PartName
from pipeline.output.run_view import RunView
from pipeline.storage import Store
from tests.support.images import jpeg
from tests.support.labelled import label
from tests.support.tars import photos, tar_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars, b before a in the plan as it is listed second, and three single images; one image is damaged."""
    folder = tmp_path / "in"
    (folder / "single").mkdir(parents=True)
    (folder / "a.tar").write_bytes(tar_bytes([*photos(4), ("bad.jpg", b"no image")]))
    (folder / "b.tar").write_bytes(tar_bytes(photos(3, first=10)))
    for number in range(3):
        (folder / "single" / f"{number}.jpg").write_bytes(jpeg(number))
    return folder


def _label(folder: Path, **flags: bool) -> RunView:
    out = folder.parent / "out"
    label([folder / "b.tar", folder / "a.tar", folder / "single"], out, **flags)
    return RunView(str(out))


def _keys(run: RunView) -> list[tuple[str, int]]:
    return [(os.path.basename(row["shard"]), row["index"]) for batch in run.rows(["shard", "index"]) for row in batch.to_pylist()]


def test_rows_come_in_the_order_of_the_plan(folder: Path) -> None:
    run = _label(folder)
    single = [(f"{number}.jpg", 0) for number in range(3)]
    assert _keys(run) == [*(("b.tar", index) for index in range(3)), *(("a.tar", index) for index in range(4)), *single]
    assert [row["image_id"] for row in run.failures().to_table().to_pylist()] == ["bad"]
    footers = list(run.footers(run.parts()))
    assert [part for part, _ in footers] == [footer.name for _, footer in footers] == list(run.in_order(run.parts()))
    assert sum(footer.masks for _, footer in footers) == 10
    assert [(os.path.basename(source.uri), source.rows) for source in run.sources()] == [
        ("b.tar", None), ("a.tar", None), ("00001.parquet", 3),
    ]  # fmt: skip


def test_parts_of_no_planned_source_are_not_seen(folder: Path, tmp_path: Path) -> None:
    """Somebody copied the parts of another run here; what a later listing no longer means lies there, too."""
    run = _label(folder)
    before = _keys(run)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.tar").write_bytes(tar_bytes([*photos(2), ("bad.jpg", b"no image")]))
    label([other / "x.tar"], tmp_path / "out2")
    for kind in ("masks", "failures"):
        for file in (tmp_path / "out2" / kind).iterdir():
            shutil.copy(file, tmp_path / "out" / kind / file.name)
    assert _keys(run) == before
    assert run.failures().count_rows() == 1
    assert run.listed().part_count == run.parts().part_count


def test_a_row_that_a_later_one_replaces_is_seen_once(folder: Path) -> None:
    """A changed image is planned again: until its old part is made again, readers see neither its old row nor two rows."""
    run = _label(folder)
    old = {file: file.read_bytes() for file in (folder.parent / "out" / "masks").iterdir()}
    (folder / "single" / "1.jpg").write_bytes(jpeg(77))
    run = _label(folder, relabel_changed=True)
    for file, data in old.items():  # what the attempt would have removed first
        file.write_bytes(data)
    keys = _keys(run)
    assert keys.count(("1.jpg", 0)) == 1
    assert len(keys) == len(set(keys))
    assert run.listed().part_count > run.parts().part_count


def test_what_another_attempt_plans_is_seen_at_the_next_look(folder: Path) -> None:
    run = _label(folder)
    before = run.parts().part_count
    (folder / "single" / "9.jpg").write_bytes(jpeg(9))
    _label(folder)
    assert run.parts().part_count == before + 1


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NotReachable, match="no run there"):
        _ = RunView(str(tmp_path)).settings


def test_a_view_of_a_bucket_is_opened_again_where_it_is_sent() -> None:
    """A store has connections and credentials: neither goes along."""
    run = RunView("s3://bucket/out")
    sent = pickle.dumps(run)
    assert len(sent) < 200
    found = pickle.loads(sent)  # noqa: S301 - our own
    assert (found.out, type(found.store)) == (run.out, type(run.store))


def test_a_copy_without_a_plan_shows_all_of_its_parts(folder: Path) -> None:
    run = _label(folder)
    before = _keys(run)
    shutil.rmtree(folder.parent / "out" / "plan")
    copied = RunView(run.out)
    assert sorted(_keys(copied)) == sorted(before)
    assert copied.failures().count_rows() == 1
    assert copied.settings["fingerprint"] == run.settings["fingerprint"]


def test_two_threads_take_a_new_plan_file_once(folder: Path) -> None:
    run = _label(folder)
    run.parts()
    for number in range(20, 30):
        (folder / "single" / f"{number}.jpg").write_bytes(jpeg(number))
    _label(folder)
    with ThreadPoolExecutor(8) as threads:
        counts = {table.part_count for table in threads.map(lambda _: run.parts(), range(16))}
    assert len(counts) == 1
    assert [file.number for file in run.plan.files] == [0, 1, 2]
    assert not any(run.plan.superseded.values())
    assert len(_keys(run)) == 20


def test_footers_of_touched_parts_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _label(folder)
    (folder / "single" / "1.jpg").write_bytes(jpeg(77))
    _label(folder, relabel_changed=True)
    asked: list[PartName] = []

    def counted(store: Store, out: str, part: PartName) -> PartFooter:
        asked.append(part)
        return read_footer(store, out, part)

    monkeypatch.setattr("pipeline.output.run_view.read_footer", counted)
    assert run.parts().part_count == run.parts().part_count
    assert len(asked) == 1


def test_a_view_asks_for_its_store_anew_in_a_forked_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 clients are not safe over a fork, as in a DataLoader's workers."""
    run = _label(folder)
    monkeypatch.setattr("pipeline.output.run_view.store_for", lambda _: stores.pop())
    stores: list[object] = [1, 2]
    assert run.store != run.store
