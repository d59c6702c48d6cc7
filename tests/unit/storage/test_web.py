"""http for inputs on a real server: one request an image, no endless answers, and no metadata service, however it is named."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import ForbiddenAddress, HostUnreachable, ObjectDenied, ObjectMissing, ObjectTooLarge, StorageError
from pipeline.shards.base import ReadOptions, SourceObject
from pipeline.shards.single import read_images
from pipeline.storage import retry
from pipeline.storage.answers import Answers
from pipeline.storage.remote import RemoteStore
from pipeline.storage.web import is_metadata_address

BODY = bytes(range(256)) * 8


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[str] = []  # noqa: RUF012 - of the class on purpose

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/redirect":
            self._head(302, {"Location": "http://169.254.169.254/latest/meta-data/", "Content-Length": "0"})
        elif self.path == "/endless":
            self._head(200, {"Transfer-Encoding": "chunked"})
            try:
                while True:
                    self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            except OSError:
                self.close_connection = True
        elif self.path == "/absent":
            self._head(404, {"Content-Length": "0"})
        elif self.path == "/in-circles":
            self._head(302, {"Location": "/in-circles", "Content-Length": "0"})
        elif self.path == "/away":
            self._head(302, {"Location": "https://./x", "Content-Length": "0"})
        elif self.path.startswith("/status/"):
            self._head(int(self.path.removeprefix("/status/")), {"Content-Length": "0"})
        else:
            self._head(200, {"Content-Length": str(len(BODY))})
            self.wfile.write(BODY)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)
    _Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_image_is_one_request(server: str) -> None:
    store = RemoteStore("http")
    assert store.read(f"{server}/a.jpg", max_bytes=len(BODY)) == BODY
    assert _Handler.asked == ["/a.jpg"]
    with pytest.raises(ObjectMissing):
        store.read(f"{server}/absent", max_bytes=10)


@pytest.mark.parametrize("path", ["/a.jpg", "/endless"])
def test_an_answer_that_is_too_long_is_not_read_to_its_end(server: str, path: str) -> None:
    with pytest.raises(ObjectTooLarge):
        RemoteStore("http").read(f"{server}{path}", max_bytes=1000)
    assert _Handler.asked == [path]


@pytest.mark.parametrize("path", ["{server}/redirect", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/"])
def test_metadata_services_are_never_asked(server: str, path: str) -> None:
    with pytest.raises(ForbiddenAddress):
        RemoteStore("http").read(path.format(server=server), max_bytes=1000)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("169.254.169.254", True), ("169.254.170.2", True), ("::ffff:169.254.169.254", True), ("fe80::1%eth0", True),
        ("fd00:ec2::254", True), ("100.100.100.200", True), ("168.63.129.16", True),
        ("fd00:ec2::23", True), ("fd20:ce::254", True), ("fd00:c1::a9fe:a9fe", True),
        ("64:ff9b::169.254.169.254", True), ("64:ff9b:1::169.254.169.254", True), ("2002:a9fe:a9fe::1", True),
        ("::169.254.169.254", True), ("64:ff9b::100.100.100.200", True), ("::ffff:0:169.254.169.254", True),
        ("64:ff9b::93.184.216.34", False), ("2002:5db8:d822::1", False), ("fd00:ec2::1", False), ("::", False),
        ("127.0.0.1", False), ("10.0.0.7", False), ("93.184.216.34", False), ("::1", False),
    ],
)  # fmt: skip
def test_which_addresses_they_have(host: str, is_one: bool) -> None:
    assert is_metadata_address(host) is is_one


def test_each_is_one_failure_and_the_rest_is_read(server: str) -> None:
    names = [f"{server}/redirect", f"{server}/endless", "http://169.254.169.254/x.jpg", f"{server}/a.jpg"]
    rows = [(row, SourceObject(uri=uri, kind="image", size=None, version=None)) for row, uri in enumerate(names)]
    found = list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY))))
    kinds = [None if image.error is None else image.error.kind for image in found]
    assert kinds == ["DeniedImage", "ImageTooLarge", "DeniedImage", None]
    assert found[-1].data == BODY


def test_dead_hosts_are_failures_while_another_host_answers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such host, a refused connection, a server that speaks no TLS: three tries each, and the rest is read."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/x.jpg"
        names = [f"{server}/a.jpg", "http://no-such-host.invalid/x.jpg", refused, server.replace("http", "https") + "/a.jpg"]
        rows = [(row, SourceObject(uri=uri, kind="image", size=None, version=None)) for row, uri in enumerate(names)]
        found = list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY))))
    assert [None if image.error is None else image.error.kind for image in found] == [None, *["ObjectUnreachable"] * 3]


@pytest.mark.parametrize("status", [503, 403, 404, None])
def test_a_look_says_what_went_wrong(server: str, status: int | None) -> None:
    """fsspec calls all of it a file that is not there: a dead network would have been an answer."""
    expected = {503: StorageError, 403: ObjectDenied, 404: ObjectMissing, None: HostUnreachable}[status]
    uri = "http://no-such-host.invalid/" if status is None else f"{server}/status/{status}"
    with pytest.raises(StorageError) as caught:
        RemoteStore("http").stat(uri)
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/status/400", "DeniedImage"), ("/status/401", "DeniedImage"), ("/status/402", "DeniedImage"),
        ("/status/403", "DeniedImage"), ("/status/404", "MissingImage"), ("/status/406", "DeniedImage"),
        ("/status/410", "MissingImage"), ("/status/418", "DeniedImage"), ("/status/451", "DeniedImage"),
        ("/status/522", "ObjectUnreachable"), ("/status/530", "ObjectUnreachable"), ("/in-circles", "ObjectUnreachable"),
        ("/away", "ObjectUnreachable"), (":0/x.jpg", "ObjectUnreachable"), (":99999/x.jpg", "ObjectUnreachable"),
    ],
)  # fmt: skip
def test_what_the_web_says_for_good_is_a_failure(server: str, path: str, kind: str) -> None:
    names = [f"{server.rpartition(':')[0] if path[0] == ':' else server}{path}", f"{server}/a.jpg"]
    rows = [(row, SourceObject(uri=uri, kind="image", size=None, version=None)) for row, uri in enumerate(names)]
    found = list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY))))
    assert [None if image.error is None else image.error.kind for image in found] == [kind, None]


@pytest.mark.parametrize(
    "uri",
    [
        "https:///x.jpg",
        "https://a b/x.jpg",
        "https://h:x/x.jpg",
        f"https://{'x' * 64}.org/x.jpg",
        "https://./x",
    ],
)
def test_urls_that_no_server_has_are_failures_if_an_older_version_has_planned_them(server: str, uri: str) -> None:
    rows = [
        (row, SourceObject(uri=each, kind="image", size=None, version=None)) for row, each in enumerate([uri, f"{server}/a.jpg"])
    ]
    found = list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY))))
    assert [None if image.error is None else image.error.kind for image in found] == ["ObjectUnreachable", None]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_be_otherwise_later_stays_open(server: str, status: int) -> None:
    rows = [(0, SourceObject(uri=f"{server}/a.jpg", kind="image", size=None, version=None)),
            (1, SourceObject(uri=f"{server}/status/{status}", kind="image", size=None, version=None))]  # fmt: skip
    with pytest.raises(StorageError, match=f"HTTP {status}"):
        list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY))))


def test_dead_hosts_alone_may_be_a_dead_network(server: str) -> None:
    rows = [(0, SourceObject(uri="http://no-such-host.invalid/x.jpg", kind="image", size=None, version=None))]
    with pytest.raises(StorageError, match="nothing else can be read"):
        list(read_images(iter(rows), ReadOptions()))


class _AnswersOnce(_Handler):
    """On each connection: else one that is open outlives its server."""

    protocol_version = "HTTP/1.0"


def test_a_network_that_is_gone_makes_no_failures_of_those_that_answered_before() -> None:
    """Two servers answer, then none does."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _AnswersOnce) for _ in range(2)]
    names = [f"http://127.0.0.1:{server.server_address[1]}/{name}" for name in ("a.jpg", "absent") for server in servers]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    answers = Answers()
    rows = [(row, SourceObject(uri=uri, kind="image", size=None, version=None)) for row, uri in enumerate(names)]
    found = list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY)), answers))
    assert [None if image.error is None else image.error.kind for image in found] == [None, None, "MissingImage", "MissingImage"]
    for server in servers:
        server.shutdown()
        server.server_close()
    with pytest.raises(StorageError, match="nothing else can be read"):
        list(read_images(iter(rows), ReadOptions(max_encoded_bytes=len(BODY)), answers))


def test_a_forbidden_address_is_denied() -> None:
    assert issubclass(ForbiddenAddress, ObjectDenied)
