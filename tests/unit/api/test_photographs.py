"""`Run.image` reads what the run's inputs hold, as it was planned, and nothing that somebody else's rows name."""

import os
import pickle
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.api.opened import Run
from pipeline.api.photographs import Photographs
from pipeline.errors import MaskfleetError, ObjectChanged, OutsideInputs
from pipeline.output.run_view import RunView
from pipeline.plan.plan import extend_plan, read_plan
from pipeline.shards.base import SourceObject
from pipeline.storage.local import LocalStore
from tests.support.corpus import photos, tar_bytes
from tests.support.labelled import change_run, label
from tests.support.parquets import parquet_bytes


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`in/` of a tar, a Parquet file and a single image, and `out`."""
    folder = tmp_path_factory.mktemp("labelled")
    pictures = photos(6)
    (folder / "in").mkdir()
    (folder / "in" / "a.tar").write_bytes(tar_bytes(pictures[:2]))
    (folder / "in" / "b.parquet").write_bytes(parquet_bytes([data for _, data in pictures[2:4]]))
    (folder / "in" / "c.jpg").write_bytes(pictures[4][1])
    (folder / "mine.jpg").write_bytes(pictures[5][1])
    label([folder / "in"], folder / "out")
    change_run(folder / "out", lambda run: run.update(input=[str(folder / "in")]))
    return folder


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled / "out", tmp_path / "out"))


def _row(uri: object, **place: Any) -> dict[str, Any]:
    return {"shard": str(uri), "index": 0, "offset": 0, "length": Path(str(uri)).stat().st_size if place == {} else 10} | place


def _rows(run: Run) -> list[dict[str, Any]]:
    return [row for batch in run.masks.to_batches() for row in batch.to_pylist()]


def test_what_was_labelled_is_read(out: Path) -> None:
    assert [photograph.size == mask.size for photograph, mask in open_run(str(out)).pairs()] == [True] * 5


@pytest.mark.parametrize("roots", [(), ("/nowhere",)])
def test_rows_that_name_other_files_are_not_followed(labelled: Path, out: Path, roots: tuple[str, ...]) -> None:
    """Somebody else's Parquet in `masks/`: a photograph of mine, which the run never saw, and files that are none."""
    run = open_run(str(out), allow_root=roots)
    inside = _rows(open_run(str(out)))[0]["shard"].rpartition("/")[0]
    for row in (
        _row(labelled / "mine.jpg"), _row("/etc/hostname", length=1), _row(f"{inside}/../mine.jpg", length=1),
        _row(f"file://{labelled}/mine.jpg", length=1), _row(f"local://{labelled}/mine.jpg", length=1), _row("mine.jpg", length=1),
    ):  # fmt: skip
        with pytest.raises(OutsideInputs):
            run.image(row)


@contextmanager
def _asked() -> Iterator[tuple[str, list[str]]]:
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()


def test_rows_that_name_servers_ask_none(out: Path) -> None:
    with _asked() as (server, paths):
        for uri in (f"{server}/x.jpg", "http://169.254.169.254/latest/meta-data/x.jpg", f"simplecache::{server}/x.jpg"):
            with pytest.raises(MaskfleetError, match="not read"):
                open_run(str(out)).image(_row(uri, length=1))
    assert paths == []


def _plan(out: Path, *uris: str) -> None:
    plan = read_plan(LocalStore(), str(out))
    assert plan is not None
    images = (SourceObject(uri=uri, kind="image", size=None, version=None, image_id=uri) for uri in uris)
    extend_plan(LocalStore(), str(out), plan, images, plan.settings)


@contextmanager
def _served(served: dict[str, object]) -> Iterator[str]:
    """`body` by ranges, with `tag` as its ETag."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, tag = served["body"], served["tag"]
            assert isinstance(body, bytes)
            first, last = 0, len(body) - 1
            if "Range" in self.headers:
                first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(len(body[first : last + 1])))
            if tag is not None:
                self.send_header("ETag", str(tag))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[first : last + 1])

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("tag", ['"one"', None])
def test_a_shard_of_the_web_is_read_as_it_was_planned(out: Path, tag: str | None) -> None:
    """Without an ETag, by its size."""
    pictures = photos(2)
    before, after = tar_bytes(pictures), tar_bytes([*pictures, *pictures[:1]])
    place = {"offset": 512, "length": len(pictures[0][1])}
    served: dict[str, object] = {"body": before, "tag": tag}
    with _served(served) as server:
        version = None if tag is None else f"etag:{tag}"
        plan = read_plan(LocalStore(), str(out))
        assert plan is not None
        shard = SourceObject(uri=f"{server}/a.tar", kind="tar", size=len(before), version=version)
        extend_plan(LocalStore(), str(out), plan, iter([shard]), plan.settings)
        change_run(out, lambda run: run.update(input=[f"{server}/a.tar"]))
        row = _row(shard.uri, **place)
        assert open_run(str(out)).image(row).mode == "RGB"
        served.update(body=before if tag else after, tag='"two"' if tag else None)
        with pytest.raises(ObjectChanged, match="changed since"):
            open_run(str(out)).image(row)
        assert open_run(str(out), check_version=False).image(row).mode == "RGB"


def test_a_run_that_is_hostile_as_a_whole_reaches_no_file_that_is_no_photograph(out: Path) -> None:
    _plan(out, "/etc/hostname", "http://169.254.169.254/x.jpg")
    change_run(out, lambda run: run.update(input=["/etc", "http://169.254.169.254/", "/tmp/list.txt"]))
    with pytest.raises(OutsideInputs, match="its name is no photograph's"):
        open_run(str(out)).image(_row("/etc/hostname", length=1))
    with pytest.raises(MaskfleetError, match="metadata"):
        open_run(str(out)).image(_row("http://169.254.169.254/x.jpg", length=1))


def test_a_planned_image_is_read_where_the_list_may_have_named_it(labelled: Path, out: Path) -> None:
    mine = str(labelled / "mine.jpg")
    _plan(out, mine)
    for given, allowed in (("/some/list.txt", True), ("https://h/list.txt?x=1", False), ("s3://b/list.csv", False)):
        change_run(out, lambda run, given=given: run.update(input=[given]))  # type: ignore[misc]
        if allowed:
            assert open_run(str(out)).image(_row(mine)).mode == "RGB"
            continue
        with pytest.raises(OutsideInputs):
            open_run(str(out)).image(_row(mine))


def test_an_allowed_root_is_the_callers_word(labelled: Path, out: Path) -> None:
    mine = str(labelled / "mine.jpg")
    assert open_run(str(out), allow_root=str(labelled)).image(_row(mine)).mode == "RGB"
    assert open_run(str(out), allow_root=[str(labelled)]).image(_rows(open_run(str(out)))[0]).mode == "RGB"


def test_what_has_changed_since_is_not_taken_for_what_was_labelled(labelled: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(labelled / "in", source)
    label([source], out)
    change_run(out, lambda run: run.update(input=[str(source)]))
    rows = _rows(open_run(str(out)))
    for file in source.iterdir():
        os.utime(file, ns=(1, 1))
    for row in rows:
        with pytest.raises(ObjectChanged):
            open_run(str(out)).image(row)
        assert open_run(str(out), check_version=False).image(row).size == (row["width"], row["height"])


@pytest.mark.parametrize(
    "place", [{"offset": -512}, {"length": -1}, {"length": 1 << 50}, {"offset": 1 << 40}, {"offset": None, "index": -1}]
)
def test_a_row_that_names_no_place_of_its_shard(out: Path, place: dict[str, int]) -> None:
    for row in _rows(open_run(str(out))):
        with pytest.raises((ObjectChanged, IndexError) if "index" in place else ObjectChanged):
            open_run(str(out)).image(row | {"offset": 0, "length": 10} | place)


@pytest.mark.parametrize(
    ("given", "uri", "may"),
    [
        ("/data", "/data/x/a.tar", True), ("/data/a.tar", "/data/a.tar", True), ("/data", "/data2/a.tar", False),
        ("/data/*/a.tar", "/data/x/a.tar", True), ("/data/s-{00..12}.tar", "/data/s-03.tar", True),
        ("/data/s-{00..12}.tar", "/other/s-03.tar", False), ("s3://b/x", "s3://b/x/a.tar", True),
        ("s3://b/x", "s3://bb/x/a.tar", False), ("s3://b/x", "/x/a.tar", False), ("s3://b/x/s-?.tar", "s3://b/x/s-1.tar", True),
        ("https://h/a/", "https://h/a/1.tar", True), ("https://h/a/", "https://h/a/%2e%2e/1.tar", False),
        ("https://h/a.jpg", "https://h/a.jpg?id=1", True), ("https://h/a/", "https://other/a/1.tar", False),
        ("https://h/l.txt", "https://other/x", True), ("https://h/l.txt", "s3://b/x.jpg", True),
        ("https://h/l.txt", "/x.jpg", False),
        ("/l.txt", "/x.jpg", True), ("/l.txt", "https://h/x", True), ("/l.txt", "ftp://h/x.jpg", False),
        ("ftp://h/l.txt", "ftp://h/x.jpg", True), ("data", "/home/u/data/a.tar", True),
        ("data/*.tar", "/home/u/data/a.tar", True),
        ("../data/", "/home/data/a.tar", True), ("~/data", "/home/u/data/a.tar", True), ("data", "/home/u/dat/a.tar", False),
        ("https://h/a.jpg?id=1", "https://h/b.jpg", False), ("https://h/s-{0..9}.tar?v=2", "https://h/s-3.tar?v=2", True),
        ("simplecache::https://h/", "https://h/a.jpg", False), (".", "/home/u/a.tar", True), ("*.tar", "/home/u/a.tar", True),
        ("data", "s3://b/data/a.tar", False),
    ],
)  # fmt: skip
def test_what_an_input_may_have_named(given: str, uri: str, may: bool) -> None:
    assert Photographs(RunView("/out"), {}, ())._may_name(given, uri) is may


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of each local file, as it is read."""
    counted: Counter[str] = Counter()
    read = LocalStore.read

    def counting(self: LocalStore, uri: str, *place: Any, **more: Any) -> bytes:
        data = read(self, uri, *place, **more)
        counted[uri] += len(data)
        return data

    monkeypatch.setattr(LocalStore, "read", counting)
    return counted


@pytest.fixture(scope="module")
def one_group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[bytes]]:
    """20 photographs in one row group, and a null between them."""
    folder = tmp_path_factory.mktemp("group")
    pictures: list[bytes | None] = [data for _, data in photos(20)]
    pictures.insert(7, None)
    (folder / "a.parquet").write_bytes(parquet_bytes(pictures, row_group_rows=50))
    label([folder / "a.parquet"], folder / "out")
    change_run(folder / "out", lambda run: run.update(input=[str(folder)]))
    return open_run(str(folder / "out")), [data for data in pictures if data is not None]


def test_photographs_of_a_row_group_are_read_once(one_group: tuple[Run, list[bytes]], read_bytes: Counter[str]) -> None:
    """Each was unpacked from the beginning of the row group: 400 of 100 kB took 38 MiB each."""
    run, pictures = one_group
    rows = _rows(run)
    shard = rows[0]["shard"]
    read_bytes.clear()
    assert [run.photographs.read(row) for row in rows] == pictures
    assert len(list(run.pairs())) == 20
    assert read_bytes[shard] < 5 * Path(shard).stat().st_size  # twice, and as often its end


def test_photographs_of_a_row_group_in_any_order_and_by_any_thread(one_group: tuple[Run, list[bytes]]) -> None:
    run, pictures = one_group
    wanted = list(zip(_rows(run), pictures, strict=True)) * 3
    for seed in range(3):
        random.Random(seed).shuffle(wanted)
        assert [run.photographs.read(row) for row, _ in wanted] == [data for _, data in wanted]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(run.photographs.read, [row for row, _ in wanted])) == [data for _, data in wanted]


def test_a_run_that_was_read_from_goes_to_another_process(one_group: tuple[Run, list[bytes]]) -> None:
    run, pictures = one_group
    row, *_ = _rows(run)
    assert run.photographs.read(row) == pictures[0]
    there = pickle.loads(pickle.dumps(run))  # noqa: S301 - it is ours
    assert there.photographs.read(row) == pictures[0]


def test_a_shard_that_is_replaced_between_two_photographs_is_noticed(tmp_path: Path) -> None:
    file, out = tmp_path / "a.parquet", tmp_path / "out"
    pictures = [data for _, data in photos(4)]
    file.write_bytes(parquet_bytes(pictures))
    label([file], out)
    change_run(out, lambda run: run.update(input=[str(file)]))
    checked, unchecked = open_run(str(out)), open_run(str(out), check_version=False)
    first, second, *_ = _rows(checked)
    assert [run.photographs.read(first) for run in (checked, unchecked)] == pictures[:1] * 2
    file.write_bytes(parquet_bytes([pictures[0], pictures[3]]))
    with pytest.raises(ObjectChanged):
        checked.photographs.read(second)
    assert unchecked.photographs.read(second) == pictures[3]
