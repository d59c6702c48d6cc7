"""Folders of the web, by the index pages that servers make of them: below the folder, each once, and not for ever."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import ClassVar

import pytest

from pipeline.errors import UsageError
from pipeline.storage.remote import RemoteStore


class _Index(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, list[str]]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        links = self.pages.get(self.path)
        if links is None and self.path.startswith("/deeper/"):
            links = ["more/"]
        body = "".join(f'<a href="{link}">{link}</a>' for link in links or ()).encode()
        self.send_response(404 if links is None else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    _Index.pages.clear()
    _Index.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _walked(folder: str, server: str) -> list[str]:
    return [info.uri.removeprefix(server) for info in islice(RemoteStore("http").walk(folder), 100)]


def test_breadcrumbs_lead_nowhere(server: str) -> None:
    """As Caddy makes them; `./` before each name, and a link to the page itself."""
    _Index.pages |= {
        "/": ["./a/", "./z.jpg"],
        "/a/": ["/", "../", "./b/", "./y.jpg"],
        "/a/b/": ["/", "../../", "../", "./", "./x.jpg", "./c/", "?sort=name", "./d/../w.jpg", "../../z.jpg", "%2e%2e/y.jpg"],
        "/a/b/c/": ["../../../", "../../", "../", "/a/b/", "./v.jpg", "/a/b/x.jpg"],
    }
    found = _walked(f"{server}/a/b/", server)
    assert [name for name in found if name.endswith(".jpg")] == ["/a/b/w.jpg", "/a/b/x.jpg", "/a/b/c/v.jpg"]
    assert sorted(set(_Index.asked)) == sorted(_Index.asked) == ["/a/b/", "/a/b/c/"]


def test_names_stay_as_they_are_written(server: str) -> None:
    links = ["a%20b.jpg", "c.jpg?x=1/../2", "..d.jpg", "e..jpg", "f/", "h;v=1.jpg"]
    _Index.pages |= {"/in%20here/": links, "/in%20here/f/": [".i.jpg"]}
    expected = ["..d.jpg", "a%20b.jpg", "c.jpg?x=1/../2", "e..jpg", "f/.i.jpg", "h;v=1.jpg"]
    for folder in ("in%20here", "in here"):
        found = _walked(f"{server}/{folder}/", server)
        assert sorted(name.rpartition("here/")[2] for name in found) == expected


def test_a_page_that_invents_folders_is_refused(server: str) -> None:
    with pytest.raises(UsageError, match="folders deep"):
        _walked(f"{server}/deeper/", server)
    assert len(_Index.asked) < 100


def test_a_folder_behind_a_query_is_walked_as_it_stands(server: str) -> None:
    _Index.pages |= {"/list?dir=a/": ["b.jpg", "c/"], "/list?dir=a/c/": ["d.jpg", "../"]}
    assert _walked(f"{server}/list?dir=a/", server) == ["/list?dir=a/b.jpg", "/list?dir=a/c/d.jpg"]
