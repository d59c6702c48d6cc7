"""Lists of URIs: three formats, relative entries, lines that cannot be read."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import ObjectMissing, UsageError
from pipeline.listing import lists
from pipeline.listing.lists import read_list


def _list(tmp_path: Path, name: str, text: str | bytes, column: str | None = None) -> list[str]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [line.uri.replace(str(tmp_path), "HERE") for line in read_list(str(path), column)]


def _uris(uri: str, *roots: str) -> list[str]:
    return [line.uri for line in read_list(uri, None, roots)]


def test_txt(tmp_path: Path) -> None:
    text = (
        "\ufeff# photographs\n\n/data/1.jpg\r\n  sub/2 #b.jpg  \ns3a://bucket/3.jpg\n"
        "https://h/4.jpg?x=1#y\n\t\nfile:///a/5%20.jpg\n  # end"
    )
    assert _list(tmp_path, "list.TXT", text) == [
        "/data/1.jpg",
        "HERE/sub/2 #b.jpg",
        "s3://bucket/3.jpg",
        "https://h/4.jpg?x=1#y",
        "/a/5 .jpg",
    ]


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.jsonl"])
def test_an_empty_list(tmp_path: Path, name: str) -> None:
    assert _list(tmp_path, name, "") == []


@pytest.mark.parametrize("header", ["url", "URI", " image_path ", "file_name"])
def test_csv_by_the_name_of_a_column(tmp_path: Path, header: str) -> None:
    text = f'id,"{header}",note\n1,"/a,1.jpg",x\n\n2,b.jpg\n3\n4,,\n'
    assert _list(tmp_path, "l.csv", text) == ["/a,1.jpg", "HERE/b.jpg"]


def test_csv_of_one_column_without_a_header(tmp_path: Path) -> None:
    assert _list(tmp_path, "l.csv", "/a.jpg\n/b.jpg\n") == ["/a.jpg", "/b.jpg"]


def test_csv_by_the_column_asked_for(tmp_path: Path) -> None:
    assert _list(tmp_path, "l.csv", "url,thumb\n/a.jpg,/t.jpg\n", "thumb") == ["/t.jpg"]
    with pytest.raises(UsageError, match=r"'nope'.*url, thumb"):
        _list(tmp_path, "l.csv", "url,thumb\n/a.jpg,/t.jpg\n", "nope")
    with pytest.raises(UsageError, match=r"--image-column.*a, b"):
        _list(tmp_path, "l.csv", "a,b\n1,2\n")


def test_jsonl(tmp_path: Path) -> None:
    text = '"/a.jpg"\n\n{"id": 1, "url": "b.jpg"}\n{"thumb": "/t.jpg", "image": "/c.jpg"}\n'
    assert _list(tmp_path, "l.jsonl", text) == ["/a.jpg", "HERE/b.jpg", "/c.jpg"]
    assert _list(tmp_path, "l.jsonl", '{"thumb": "/t.jpg", "image": "/c.jpg"}', "thumb") == ["/t.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("l.jsonl", '"/a.jpg"\n{', "line 2 is not JSON"),
        ("l.jsonl", '"/a.jpg"\n\n7\n', "line 3 holds no URI"),
        ("l.jsonl", '{"url": null}\n', "line 1 holds no URI"),
        ("l.jsonl", '{"id": "x"}\n', "line 1 holds no URI"),
        ("l.csv", "url\n" + "x" * 200_000 + "\n", "line 2"),
        ("l.txt", b"/a.jpg\n/\xff\xfe.jpg\n", "not UTF-8"),
        ("l.csv", b"url\n/\xff\xfe.jpg\n", "not UTF-8"),
        ("l.jsonl", b'"/\xff\xfe.jpg"\n', "not UTF-8"),
        ("l.txt", "/a\0.jpg\n", "NUL"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str | bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        _list(tmp_path, name, text)


def test_a_list_that_is_not_there() -> None:
    with pytest.raises(ObjectMissing):
        list(read_list("/absent/l.txt", None))


def test_entries_are_relative_to_the_folder_of_a_list_with_a_query() -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/lists/l.txt?sig=a/b", b"sub/1.jpg\n")
    try:
        assert _uris("memory://lists/l.txt?sig=a/b") == ["memory://lists/sub/1.jpg"]
    finally:
        files.store.clear()
        files.pseudo_dirs[:] = [""]


def test_long_lists_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    path.write_text("".join(f"/data/{number:07}.jpg\n" for number in range(100_000)))
    found = read_list(str(path), None)
    assert next(found) == (1, "/data/0000000.jpg")
    assert sum(1 for _ in found) == 99_999


def _roots(folder: Path, entry: str, *roots: str) -> list[str]:
    (folder / "l.txt").write_text(entry + "\n")
    return _uris(str(folder / "l.txt"), *roots)


@pytest.mark.parametrize(
    ("entry", "root"),
    [
        ("s3://bucket/a/x.jpg", "s3://bucket/a"), ("s3://bucket/a/x.jpg", "s3://bucket/"), ("s3a://bucket/x.jpg", "s3://bucket"),
        ("/data/x.jpg", "/data/"), ("file:///data/x.jpg", "/data"), ("https://h/a/x.jpg?t=/../b", "https://h/a/"),
        ("s3://bucket/a/x.jpg", "s3://bucket/a/x.jpg"), ("/x.jpg", "/"),
    ],
)  # fmt: skip
def test_roots_allow_what_lies_below_them(tmp_path: Path, entry: str, root: str) -> None:
    assert len(_roots(tmp_path, entry, "s3://other/", root)) == 1


@pytest.mark.parametrize(
    ("entry", "root"),
    [
        ("file:///etc/passwd", "s3://bucket/"), ("/etc/passwd", "/data"), ("/data/../etc/passwd", "/data"),
        ("file:///data/%2e%2e/etc/passwd", "/data"), ("../../../etc/passwd", "/data"), ("/database/x.jpg", "/data"),
        ("s3://bucket2/x.jpg", "s3://bucket"), ("http://169.254.169.254/latest", "s3://bucket"),
        ("https://h/a/../b/x.jpg", "https://h/a/"), ("https://h/a/%2E%2e/b/x.jpg", "https://h/a/"),
        ("https://h@evil/a/x.jpg", "https://h/"), ("https://h.evil/x.jpg", "https://h"), ("http://h/a/x.jpg", "https://h/a"),
    ],
)  # fmt: skip
def test_roots_refuse_the_rest(tmp_path: Path, entry: str, root: str) -> None:
    with pytest.raises(UsageError, match="below no --allow-root"):
        _roots(tmp_path, entry, root)


def test_a_list_from_elsewhere_names_no_local_files() -> None:
    import fsspec

    for text in ("file:///etc/passwd", "/etc/passwd", "~/.ssh/id_rsa"):
        fsspec.filesystem("memory").pipe("/lists/l.txt", text.encode())
        with pytest.raises(UsageError, match="names a local file"):
            list(read_list("memory://lists/l.txt", None))
    fsspec.filesystem("memory").pipe("/lists/l.txt", b"/data/x.jpg\nb.jpg\n")
    assert _uris("memory://lists/l.txt", "/data", "memory://lists") == ["/data/x.jpg", "memory://lists/b.jpg"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"url":' * 100_000])
def test_json_that_is_nested_without_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.jsonl").write_text(text + "\n")
    with pytest.raises(UsageError, match="line 1 is not JSON"):
        list(read_list(str(tmp_path / "l.jsonl"), None))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("ftp://h/x.jpg", "ftp://"), ("memory://h/x.jpg", "memory://"), ("nosuch://h/x.jpg", "nosuch://"),
        ("data://x.jpg", "data://"), ("zip://x.jpg", "another file system"), ("reference://x.jpg", "another file system"),
        ("simplecache::file:///etc/hostname", "another file system"), ("filecache::s3://b/x.jpg", "another file system"),
        ("zip://x.jpg::/etc/x.zip", "another file system"), ("https:///x.jpg", "no host"), ("https://:80/x.jpg", "no host"),
        ("https://h:99999/x.jpg", "no host"), ("https://h:0/x.jpg", "no host"), ("https://h:x/x.jpg", "no host"),
        ("https://[h/x.jpg", "no"), ("https://a..b/x.jpg", "no host"), ("https://" + "h" * 64 + ".org/x.jpg", "no host"),
        ("https://h%00/x.jpg", "no host"), ("https://h o/x.jpg", "space"), ("https://h/x y.jpg", "space"),
        ("https://h/x\u3000y.jpg", "space"), ("https://h/x\ty.jpg", "control"), ("https://h/\x7f.jpg", "control"),
        ("https://h/\x1b[2J.jpg", "control"), ("s3:///x.jpg", "no object"), ("s3://bucket", "no object"),
        ("s3://bucket/", "no object"),
        ("s3://b u/x.jpg", "bucket"), ("s3://b/" + "x" * 1025, "1,025 bytes"), ("/x/" + "y" * 20_000, "20,003 characters"),
        ("file:///etc/%00.jpg", "NUL"), ("a b://c/x.jpg", "no scheme"), ("https://h/" + "x" * 1_000_000, "characters"),
        ("https://h/" + "x" * 2_000_000, "more than 1,048,576 characters"),
    ],
)  # fmt: skip
def test_a_line_that_no_store_can_be_asked_for_is_refused_with_its_number(tmp_path: Path, entry: str, says: str) -> None:
    (tmp_path / "l.txt").write_text(f"/a.jpg\n\n# b\n{entry}\n/c.jpg\n")
    with pytest.raises(UsageError, match=r"line 4\b") as error:
        _uris(str(tmp_path / "l.txt"))
    assert says in str(error.value)
    assert len(str(error.value)) < 700
    assert "\x1b" not in str(error.value)


def test_the_number_of_a_line_in_every_format(tmp_path: Path) -> None:
    for name, text in (
        ("l.csv", 'id,url\n1,/a.jpg\n2,"/b\n.jpg"\n3,ftp://h/x\n'),
        ("l.jsonl", '"/a.jpg"\n\n\n\n{"url": "ftp://h/x"}\n'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=r"line 5: ftp://"):
            _uris(str(tmp_path / name))
    (tmp_path / "l.jsonl").write_text('"/a.jpg"\n"/\\ud800.jpg"\n')
    with pytest.raises(UsageError, match=r"line 2: .*UTF-8"):
        _uris(str(tmp_path / "l.jsonl"))


def test_secrets_of_a_line_are_not_said(tmp_path: Path) -> None:
    for entry in (
        "https://user:hunter2@h:99999/x.jpg?token=hunter2",
        "https://user:hunter2@[h/x?token=hunter2",
        "ftp://u:hunter2@h/x",
    ):
        (tmp_path / "l.txt").write_text(entry)
        with pytest.raises(UsageError) as error:
            _uris(str(tmp_path / "l.txt"))
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "entry", ["local:///etc/hostname", "LOCAL:///etc/hostname", "local://etc/hostname", "file:///etc/hostname", "/etc/hostname"]
)
def test_no_spelling_of_a_local_file_slips_through_a_list_from_elsewhere(entry: str) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/lists/l.txt", entry.encode())
    try:
        with pytest.raises(UsageError, match="line 1: it names a local file"):
            _uris("memory://lists/l.txt")
    finally:
        files.store.clear()
        files.pseudo_dirs[:] = [""]


def test_a_list_names_what_its_own_store_holds() -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/lists/l.txt", b"memory://other/x.jpg\nhttps://h/a%20b.jpg\ns3://bucket/a b.jpg\n")
    try:
        assert _uris("memory://lists/l.txt") == ["memory://other/x.jpg", "https://h/a%20b.jpg", "s3://bucket/a b.jpg"]
    finally:
        files.store.clear()
        files.pseudo_dirs[:] = [""]


def test_a_scheme_whose_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("/a.jpg\ngs://bucket/x.jpg\n")
    with pytest.raises(UsageError, match="line 2: gs:// cannot be read here"):
        _uris(str(tmp_path / "l.txt"))


class _Chunked(BaseHTTPRequestHandler):
    """Lists whose size the server does not say: a short one, and one without end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        line = b"https://h/a.jpg\n"
        if self.path == "/short.txt":
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))
            return
        many = line * 4096
        try:
            while True:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(many), many))
        except OSError:
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_a_list_whose_size_nobody_says_is_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_UNTOLD_BYTES", 1 << 20)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Chunked)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert _uris(f"{root}/short.txt") == ["https://h/a.jpg"]
        with pytest.raises(UsageError, match=r"more than 1 MiB.*copy it"):
            _uris(f"{root}/endless.txt")
    finally:
        server.shutdown()
        server.server_close()
