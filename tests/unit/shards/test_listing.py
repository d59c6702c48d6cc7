"""Inputs as people name them, and what is to be labelled there."""

import os
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import NotReachable, UsageError
from pipeline.shards.base import Shard
from pipeline.shards.listing import Listing, list_inputs


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


def _rows(*inputs: str | Path, listing: Listing | None = None, **options: str) -> list[Shard]:
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
