"""Inputs as people name them, and what is to be labelled there."""

import os
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import NotReachable, UsageError
from pipeline.listing.listing import Listing, list_inputs
from pipeline.shards.base import SourceObject


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in (
        "shards/1.tar",
        "shards/0.tar",
        "p.parquet",
        "photos/b.jpg",
        "photos/deep/a.PNG",
        "photos/c.heic",
        "README.md",
        "l.txt",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def _rows(*inputs: str | Path, listing: Listing | None = None, **options: str) -> list[SourceObject]:
    return list(list_inputs([str(text) for text in inputs], listing or Listing(), **options))


def _names(data: Path, *inputs: str | Path, listing: Listing | None = None, **options: str) -> list[str]:
    return [row.uri.removeprefix(f"{data}/") for row in _rows(*inputs, listing=listing, **options)]


ALL = ["p.parquet", "photos/b.jpg", "photos/c.heic", "photos/deep/a.PNG", "shards/0.tar", "shards/1.tar"]


@pytest.mark.parametrize("suffix", ["", "/", "/."])
def test_a_folder_is_walked_and_the_rest_counted(data: Path, suffix: str) -> None:
    listing = Listing()
    rows = _rows(f"{data}{suffix}", listing=listing)
    assert [row.uri for row in rows] == [f"{data}/{name}" for name in ALL]
    assert [row.kind for row in rows] == ["parquet", "image", "image", "image", "tar", "tar"]
    assert listing.ignored == 2  # the README and the list
    stat = (data / "p.parquet").stat()
    assert (rows[0].size, rows[0].version) == (stat.st_size, f"mtime:{stat.st_mtime_ns}")


def test_image_ids_are_relative_to_one_input_and_uris_with_several(data: Path) -> None:
    assert [row.image_id for row in _rows(data)] == [None, "photos/b.jpg", "photos/c.heic", "photos/deep/a.PNG", None, None]
    assert [row.image_id for row in _rows(data / "photos" / "b.jpg")] == ["b.jpg"]
    assert [row.image_id for row in _rows(f"{data}/photos/**/*.PNG")] == ["deep/a.PNG"]
    several = _rows(data / "photos", data / "p.parquet")
    assert [row.image_id for row in several] == [row.uri if row.kind == "image" else None for row in several]


def test_globs(data: Path) -> None:
    assert _names(data, f"{data}/shards/*.tar") == ["shards/0.tar", "shards/1.tar"]
    assert _names(data, f"{data}/shards/[1-9].tar") == ["shards/1.tar"]
    assert _names(data, f"{data}/*/?.jpg") == ["photos/b.jpg"]
    with pytest.raises(NotReachable, match="nothing to label"):
        _rows(f"{data}/*.jpg")  # a star stays in its folder


def test_braces(data: Path) -> None:
    for number in range(8, 12):
        (data / "shards" / f"s-{number:03}.tar").touch()
    assert _names(data, f"{data}/shards/s-{{008..011}}.tar") == [f"shards/s-{number:03}.tar" for number in range(8, 12)]
    with pytest.raises(NotReachable, match="s-012"):
        _rows(f"{data}/shards/s-{{011..012}}.tar")
    for wrong in ("{5..3}", "{0..99999999}"):
        with pytest.raises(UsageError, match="braces"):
            _rows(f"{data}/s-{wrong}.tar")


def test_names_that_hold_magic_are_names_first(data: Path) -> None:
    (data / "photos" / "x[1].jpg").touch()
    (data / "photos" / "x1.jpg").touch()
    assert _names(data, f"{data}/photos/x[1].jpg") == ["photos/x[1].jpg"]


def test_a_folder_may_be_called_like_a_file(data: Path) -> None:
    (data / "odd.tar").mkdir()
    (data / "odd.tar" / "a.jpg").touch()
    assert _names(data, data / "odd.tar") == ["odd.tar/a.jpg"]


def test_a_list(data: Path) -> None:
    (data / "l.txt").write_text("photos/b.jpg\nshards/1.tar\nhttps://user:pw@h/x?token=1\n/absent.jpg\n")
    listing = Listing()
    rows = _rows(data / "l.txt", listing=listing)
    assert [(row.uri, row.kind, row.image_id) for row in rows] == [
        (f"{data}/photos/b.jpg", "image", f"{data}/photos/b.jpg"),
        (f"{data}/shards/1.tar", "tar", None),
        ("https://h/x", "image", "https://h/x"),
        ("/absent.jpg", "image", "/absent.jpg"),
    ]
    assert listing.secrets == {"https://h/x": "https://user:pw@h/x?token=1"}
    assert rows[0].size is None  # images of a list are not asked for before they are read
    assert rows[1].size == len("shards/1.tar")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst"])
def test_compressed_tars_are_refused_wherever_they_are_met(data: Path, suffix: str) -> None:
    path = data / f"x{suffix}"
    path.touch()
    (data / "l.txt").write_text(f"x{suffix}\n")
    for text in (path, data, data / "l.txt", f"{data}/x*"):
        with pytest.raises(UsageError, match=r"unpack it first .*gunzip"):
            _rows(text)


def test_input_format(data: Path) -> None:
    assert _names(data, data, input_format="webdataset") == ["shards/0.tar", "shards/1.tar"]
    assert _names(data, data, input_format="parquet") == ["p.parquet"]
    assert _names(data, data, input_format="images") == ["photos/b.jpg", "photos/c.heic", "photos/deep/a.PNG"]
    (data / "nameless").write_text("photos/b.jpg\n")
    with pytest.raises(UsageError, match="--input-format"):
        _rows(data / "nameless")
    kinds = {"webdataset": "tar", "parquet": "parquet", "images": "image"}
    for input_format, kind in kinds.items():
        assert [row.kind for row in _rows(data / "nameless", input_format=input_format)] == [kind]
    assert _names(data, data / "nameless", input_format="list") == ["photos/b.jpg"]


def test_the_output_inside_the_input_is_passed_by(data: Path) -> None:
    (data / "out" / "masks").mkdir(parents=True)
    (data / "out" / "masks" / "part.parquet").touch()
    (data / "outside.tar").touch()
    found = _names(data, data, output=f"{data}/out")
    assert "outside.tar" in found
    assert not [name for name in found if name.startswith("out/")]


@pytest.mark.parametrize("text", ["absent", "absent.tar", "absent/", "absent*.jpg", "absent.txt", "empty"])
def test_nothing_there(data: Path, text: str) -> None:
    (data / "empty").mkdir()
    with pytest.raises(NotReachable) as error:
        _rows(data / text if not text.endswith("/") else f"{data}/{text}")
    assert f"{data}/{text}".rstrip("/") in str(error.value)


def test_one_absent_input_of_several_is_named(data: Path) -> None:
    with pytest.raises(NotReachable, match="absent"):
        _rows(data, data / "absent")


def test_only_things_of_other_kinds(data: Path) -> None:
    (data / "docs").mkdir()
    (data / "docs" / "a.md").touch()
    with pytest.raises(NotReachable, match="1 objects of other kinds"):
        _rows(data / "docs")


def test_secrets_of_an_input_are_not_said() -> None:
    with pytest.raises(NotReachable) as error:
        _rows("nosuch://user:pw@host/x.tar?token=1")
    assert "pw" not in str(error.value)
    assert "token" not in str(error.value)


def test_file_names_that_are_not_utf_8_are_named_and_refused(data: Path) -> None:
    """No column could hold them; passing them by would lose images in silence."""
    (data / "photos" / os.fsdecode(b"caf\xe9.jpg")).touch()
    with pytest.raises(UsageError, match="not UTF-8"):
        _rows(data)


def _list(data: Path, *lines: str, name: str = "l.txt") -> Path:
    (data / name).write_text("".join(f"{line}\n" for line in lines))
    return data / name


def test_a_query_tells_images_apart(data: Path) -> None:
    """Before, both were one image, and one of them was lost in silence."""
    listing = Listing()
    presigned = "https://h/img?id=2&X-Amz-Date=1&X-Amz-Signature=abc"
    rows = _rows(_list(data, "https://h/img?id=1", presigned, "https://h/x.jpg?w=1#f"), listing=listing)
    assert [(row.uri, row.image_id, row.kind) for row in rows] == [
        (uri, uri, "image") for uri in ("https://h/img?id=1", "https://h/img?id=2", "https://h/x.jpg?w=1")
    ]
    assert listing.secrets == {"https://h/img?id=2": presigned, "https://h/x.jpg?w=1": "https://h/x.jpg?w=1#f"}


def test_one_object_signed_twice_is_one_image(data: Path) -> None:
    signed = ["https://h/img?id=1", "https://h/img?id=1", "https://u:p@h/img?id=1", "https://h/img?id=1&X-Amz-Date=1&X-Amz-Signature=a",
              "https://h/img?id=1&X-Amz-Date=2&X-Amz-Signature=b", "https://h/img?id=1&sv=1&sig=c"]  # fmt: skip
    assert {row.uri for row in _rows(_list(data, *signed))} == {"https://h/img?id=1"}


@pytest.mark.parametrize(
    "line",
    ["https://h/img?token=2", "https://h/img", "https://h/img?X-Amz-Date=1&X-Amz-Signature=a", "https://h/img?token=1&key=2"],
)
def test_lines_that_differ_in_what_is_not_written_down_are_refused_by_their_numbers(data: Path, line: str) -> None:
    path = _list(data, "https://h/img?token=1", "https://h/other?token=1", "", line, "https://h/other?token=1")
    with pytest.raises(UsageError, match=r"l\.txt: lines 1 and 4 differ") as error:
        next(list_inputs([str(path)], Listing()))  # before anything is planned
    assert "token=" not in str(error.value)
    one, two = _list(data, "https://h/img?token=1", name="1.txt"), _list(data, "", line, name="2.txt")
    with pytest.raises(UsageError, match=r"1\.txt: line 1, and .*2\.txt: line 2, differ"):
        _rows(one, two)


def test_inputs_that_differ_in_what_is_not_written_down_are_refused() -> None:
    with pytest.raises(UsageError, match=r"number 1.*number 2.*differ"):
        _rows("https://h/img.jpg?token=1", "https://h/img.jpg?token=2")


def test_an_output_of_before_finds_its_images_again(data: Path) -> None:
    """No query was written down then: a path stands for one image, and is refused if it could be two."""
    listing = Listing(queries=False)
    rows = _rows(_list(data, "https://h/img?id=1", "https://h/a b.jpg?id=1&token=2"), listing=listing)
    assert [(row.uri, row.image_id) for row in rows] == [("https://h/img",) * 2, ("https://h/a b.jpg",) * 2]
    assert listing.secrets["https://h/img"] == "https://h/img?id=1"
    for second in ("https://h/img?id=2", "https://h/img"):
        with pytest.raises(UsageError, match=r"lines 1 and 2 .*another --output"):
            _rows(_list(data, "https://h/img?id=1", second), listing=Listing(queries=False))


def test_names_of_web_files_ignore_queries(data: Path) -> None:
    """A shard by its path; what the query says is none of it."""
    path = _list(data, "https://h/get?file=a.tar", "https://h/a.jpg?to=b.tar", "https://h/x.tar.gz?id=1")
    with pytest.raises(UsageError, match=r"line 3: .*unpack it first"):
        _rows(path)
    rows = _rows(_list(data, "https://h/get?file=a.tar", "https://h/a.jpg?to=b.tar"))
    assert [row.kind for row in rows] == ["image", "image"]


def test_a_bad_line_is_found_before_anything_is_planned(data: Path) -> None:
    path = _list(data, *(f"https://h/{number}.jpg" for number in range(1000)), "ftp://h/x.jpg")
    with pytest.raises(UsageError, match="line 1001"):
        next(list_inputs([str(data / "photos"), str(path)], Listing()))


def test_a_listed_shard_that_is_gone_is_planned_and_the_rest_goes_on(data: Path) -> None:
    rows = _rows(_list(data, "gone.tar", "shards/1.tar", "gone.parquet", "shards/0.tar"))
    assert [(row.uri.rpartition("/")[2], row.kind, row.size) for row in rows] == [
        ("gone.tar", "tar", None), ("1.tar", "tar", 12), ("gone.parquet", "parquet", None), ("0.tar", "tar", 12),
    ]  # fmt: skip
    assert [row.size for row in _rows(_list(data, "gone.tar", "photos/b.jpg"))] == [None, None]


def test_nothing_but_shards_that_are_gone_is_not_reachable(data: Path) -> None:
    with pytest.raises(NotReachable, match=r"line 2: no such file: .*a\.tar"):
        _rows(_list(data, "", "a.tar", "b.tar"))


@pytest.mark.parametrize(
    "text", ["https:///x.jpg", "https://h:99999/x.jpg", "https://[h/x.jpg", "simplecache::s3://b/x.tar", "/a\0.jpg"]
)
def test_inputs_that_name_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        _rows(text)


def test_local_is_another_name_of_file(data: Path) -> None:
    assert _names(data, f"local://{data}/shards/") == ["shards/0.tar", "shards/1.tar"]


class _Slow(SimpleHTTPRequestHandler):
    """Answers after a moment; counts how many are being answered."""

    now, most, asked = 0, 0, 0
    lock = threading.Lock()

    def do_HEAD(self) -> None:
        with _Slow.lock:
            _Slow.now, _Slow.asked = _Slow.now + 1, _Slow.asked + 1
            _Slow.most = max(_Slow.most, _Slow.now)
        time.sleep(0.02)
        super().do_HEAD()
        with _Slow.lock:
            _Slow.now -= 1

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_shards_on_the_web_are_looked_up_tens_at_a_time_in_order(data: Path) -> None:
    names = [f"s-{number:03}.tar" for number in range(80)]
    for name in names:
        (data / name).write_bytes(b"12345")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=str(data))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        (alone,) = _rows(f"{base.replace('//', '//user:pw@')}/photos/b.jpg?of=a/b&token=1")
        _Slow.most = _Slow.asked = 0
        rows = _rows(_list(data, *(f"{base}/{name}" for name in names), f"{base}/photos/b.jpg"))
        braces = _rows(f"{base}/s-{{000..079}}.tar")
        server.shutdown()
    assert (alone.uri, alone.image_id) == (f"{base}/photos/b.jpg?of=a/b", "b.jpg")
    assert [row.uri for row in rows] == [f"{base}/{name}" for name in [*names, "photos/b.jpg"]]
    assert [(row.uri, row.size) for row in braces] == [(f"{base}/{name}", 5) for name in names]
    assert 10 <= _Slow.most <= 33
    assert _Slow.asked == 160


def test_other_schemes() -> None:
    files = fsspec.filesystem("memory")
    files.pipe({"/in/a.tar": b"1", "/in/deep/b.jpg": b"22"})
    try:
        rows = _rows("memory://in/")
        assert [(row.uri, row.kind, row.size) for row in rows] == [
            ("memory:///in/a.tar", "tar", 1),
            ("memory:///in/deep/b.jpg", "image", 2),
        ]
    finally:
        files.store.clear()
        files.pseudo_dirs[:] = [""]
