"""Lists: images of the web that differ only in their query, shards that are gone, outputs of before."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.api.opened import open_run
from pipeline.config import SegmentConfig
from pipeline.errors import UsageError
from pipeline.labels.prepare import prepare
from pipeline.plan.fingerprint import settings
from pipeline.plan.options import network_request
from pipeline.plan.plan import extend_plan, read_plan
from pipeline.shards.base import SourceObject
from pipeline.storage import writable_store_for
from pipeline.verify.verify import verify
from tests.support.runs import SHORT_SIDE, read_rows, segment
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")
_FLAGS: dict[str, Any] = {"workers": 1, "failure_budget": 1.0, "allow_broken_shards": 9}


class _Images(BaseHTTPRequestHandler):
    """What `served` says of a path and its query."""

    def __init__(self, served: dict[str, bytes], *arguments: Any) -> None:
        self.served = served
        super().__init__(*arguments)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        data = self.served.get(f"{parts.path}?{parts.query.partition('&token')[0]}" if parts.query else parts.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def web() -> Iterator[str]:
    (_, first), (_, second), (_, third) = photos(3)
    served = {"/img?id=1": first, "/img?id=2": second, "/img?id=3": third, "/shard.tar": tar_bytes(photos(2))}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Images, served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_images_that_differ_only_in_their_query_are_all_labelled(web: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(f"{web}/img?id=1\n{web}/img?id=2&token=canary\n{web}/img?id=2&token=canary\n{web}/img?id=3\n")
    outcome = segment(tmp_path / "l.txt", tmp_path / "out", **_FLAGS)
    rows = read_rows(tmp_path / "out").masks
    assert [row["shard"] for row in rows] == [f"{web}/img?id={number}" for number in (1, 2, 3)]
    assert len({row["mask"]["bytes"] for row in rows}) == 3
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert "canary" not in str(outcome.run)
    assert verify(str(tmp_path / "out")).state == "whole"
    assert len(list(open_run(str(tmp_path / "out")).pairs())) == 3


def test_a_shard_of_the_web_that_is_gone_costs_one_row_though_its_worker_has_read_nothing_else(web: str, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text(f"{web}/gone.tar\n{web}/shard.tar\n{web}/gone.parquet\n")
    outcome = segment(tmp_path / "l.txt", tmp_path / "out", **_FLAGS)
    assert outcome.error is None
    assert outcome.run["counts"]["broken_shards"] == 2
    assert {row["message"] for row in read_rows(tmp_path / "out").failures} == {"the shard is gone"}


def test_a_shard_of_a_list_that_is_gone_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(tar_bytes(photos(2)))
    (tmp_path / "l.txt").write_text("gone.tar\nshard.tar\ngone.parquet\n")
    for _ in range(2):
        outcome = segment(tmp_path / "l.txt", tmp_path / "out", **_FLAGS)
        assert outcome.error is None
        assert outcome.run["counts"]["broken_shards"] == 2
    rows = read_rows(tmp_path / "out")
    assert sorted((row["shard"], row["error"], row["message"]) for row in rows.failures) == [
        (f"{tmp_path}/gone.{kind}", "BrokenShard", "the shard is gone") for kind in ("parquet", "tar")
    ]
    assert len(rows.masks) == 2
    assert verify(str(tmp_path / "out")).state == "whole"


def test_an_output_of_before_goes_on_without_queries(web: str, tmp_path: Path) -> None:
    """It planned `img` for `img?id=1`: that is the same row, fetched with the query that the list gives."""
    (tmp_path / "l.txt").write_text(f"{web}/img?id=1\n")
    config = SegmentConfig(
        input=(str(tmp_path / "l.txt"),), output=str(tmp_path / "out"), weights="bundled", short_side=SHORT_SIDE, part_images=4
    )
    store, old = writable_store_for(config.output), settings(config, prepare(network_request(config)))
    del old["format"]  # as it was in format 1
    planned = SourceObject(uri=f"{web}/img", kind="image", size=None, version=None, image_id=f"{web}/img")
    extend_plan(store, config.output, None, iter([planned]), old)
    outcome = segment(tmp_path / "l.txt", tmp_path / "out", **_FLAGS)
    assert outcome.run["counts"] | {"masks": 1, "failures": 0, "inferred": 1} == outcome.run["counts"]
    plan = read_plan(store, config.output)
    assert plan is not None
    assert [file.rows for file in plan.files] == [1]
    assert [row["shard"] for row in read_rows(tmp_path / "out").masks] == [f"{web}/img"]
    (tmp_path / "l.txt").write_text(f"{web}/img?id=1\n{web}/img?id=2\n")
    with pytest.raises(UsageError, match=r"lines 1 and 2 .*another --output"):
        segment(tmp_path / "l.txt", tmp_path / "out", **_FLAGS)
