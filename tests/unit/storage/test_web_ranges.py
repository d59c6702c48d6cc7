"""Ranges of objects of the web: of one version, of servers that answer ranges, and never more than was asked for."""

import gzip
import resource
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from typing import ClassVar

import pytest

from pipeline.errors import ObjectChanged, StorageError, StorageRefused
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.range_file import CHUNK_BYTES
from pipeline.shards.tar import read_tar
from pipeline.storage import retry
from pipeline.storage.remote import RemoteStore
from tests.support.tars import photos, tar_bytes

BODY = bytes(range(256)) * 8
GIANT = 256 << 20
ETAG = 'etag:"one"'


class _Handler(BaseHTTPRequestHandler):
    """Ranges below /ranges/, where `bodies` lie; elsewhere whole answers, whatever is asked for."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []
    bodies: ClassVar[dict[str, bytes]] = {}
    tag: ClassVar[str | None] = '"one"'

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/giant":
            self._giant()
        elif self.path == "/gzip":
            self._answer(206, gzip.compress(BODY), {"Content-Encoding": "gzip"})
        elif self.path == "/elsewhere":
            self._answer(206, BODY[:10], {"Content-Range": f"bytes 0-9/{len(BODY)}"})
        elif self.path.startswith("/ranges/") and "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            body = self.bodies[self.path]
            part = body[int(first) : int(last) + 1 if last else None]
            span = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
            self._answer(206, part, {"Content-Range": span})
        else:
            self._answer(200, self.bodies.get(self.path, BODY), {})

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))} | ({"ETag": self.tag} if self.tag else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _giant(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(GIANT))
        self.end_headers()
        try:
            for _ in range(GIANT >> 20):
                self.wfile.write(bytes(1 << 20))
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)
    monkeypatch.setattr(_Handler, "tag", '"one"')
    _Handler.asked.clear()
    _Handler.bodies.clear()
    _Handler.bodies["/ranges/a"] = BODY
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("start", "length"), [(0, 10), (10, 5), (0, len(BODY)), (len(BODY) - 1, 1), (7, None), (0, None), (9, 0)]
)
def test_a_range_is_what_was_asked_for(server: str, start: int, length: int | None) -> None:
    expected = BODY[start : None if length is None else start + length]
    assert RemoteStore("http").read(f"{server}/ranges/a", start, length, ETAG) == expected


def test_a_short_answer_is_a_storage_error(server: str) -> None:
    with pytest.raises(StorageError, match="asked for 10 bytes, got 5"):
        RemoteStore("http").read(f"{server}/ranges/a", len(BODY) - 5, 10)


@pytest.mark.parametrize("max_bytes", [None, len(BODY)])
def test_whole_objects_are_read_from_servers_without_ranges(server: str, max_bytes: int | None) -> None:
    assert RemoteStore("http").read(f"{server}/a.jpg", max_bytes=max_bytes) == BODY


def test_the_beginning_is_read_from_servers_without_ranges_and_no_more(server: str) -> None:
    """A small shard lies in one chunk."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert RemoteStore("http").read(f"{server}/giant", 0, 512) == bytes(512)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (GIANT >> 10) / 4


def test_a_server_without_ranges_is_refused_at_once_and_not_downloaded(server: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StorageRefused, match="answers no ranges: copy it"):
        RemoteStore("http").read(f"{server}/giant", 1 << 20, 512)
    assert _Handler.asked == ["/giant"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (GIANT >> 10) / 4


def test_a_range_of_something_packed_is_none_of_the_object(server: str) -> None:
    with pytest.raises(StorageRefused, match="gzip"):
        RemoteStore("http").read(f"{server}/gzip", 0, 10)


def test_another_range_is_no_answer(server: str) -> None:
    with pytest.raises(StorageError, match="another range"):
        RemoteStore("http").read(f"{server}/elsewhere", 10, 10)


@pytest.mark.parametrize(("start", "length"), [(0, 10), (10, 5), (0, None)])
@pytest.mark.parametrize(
    ("planned", "tag", "changed"),
    [
        (ETAG, '"two"', True), (ETAG, '"one"', False), (ETAG, 'W/"one"', False), ('etag:W/"one"', 'W/"one"', False),
        ('etag:W/"one"', 'W/"two"', True), (ETAG, None, False), (None, '"two"', False),
    ],
)  # fmt: skip
def test_an_object_of_another_version_is_not_read(
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    start: int,
    length: int | None,
    planned: str | None,
    tag: str | None,
    changed: bool,
) -> None:
    monkeypatch.setattr(_Handler, "tag", tag)
    store = RemoteStore("http")
    if not changed:
        assert store.read(f"{server}/ranges/a", start, length, planned) == BODY[start : start + (length or len(BODY))]
        return
    with pytest.raises(ObjectChanged, match="changed since it was listed"):
        store.read(f"{server}/ranges/a", start, length, planned)
    assert len(_Handler.asked) == 4  # another server of the same host may have the one that was planned


def test_servers_of_one_host_may_each_have_an_etag_of_their_own(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time at which the file came to them, say."""
    tags = cycle(['"two"', '"three"', '"one"'])
    monkeypatch.setattr(_Handler, "tag", property(lambda _: next(tags)))
    for _ in range(3):
        assert RemoteStore("http").read(f"{server}/ranges/a", 2, 4, ETAG) == BODY[2:6]


def test_a_tar_that_was_replaced_while_it_was_read_is_not_mixed_with_the_one_before(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, store = f"{server}/ranges/a.tar", RemoteStore("http")
    _Handler.bodies["/ranges/a.tar"] = tar_bytes(photos(3))
    info = store.stat(uri)
    assert (info.size, info.version) == (len(_Handler.bodies["/ranges/a.tar"]), ETAG)
    shard = SourceObject(uri=uri, kind="tar", size=info.size, version=info.version)
    assert info.size is not None
    assert info.size < CHUNK_BYTES
    first = next(read_tar(store, shard, Cursor(), ReadOptions()))
    monkeypatch.setattr(_Handler, "tag", '"two"')
    with pytest.raises(ObjectChanged):
        list(read_tar(store, shard, first.after, ReadOptions()))
