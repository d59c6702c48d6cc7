"""Keys, extensions and kinds, by the names alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards.names import file_kind, is_image_member, key_and_extension


@pytest.mark.parametrize(
    ("member", "key", "extension"),
    [
        ("0001.jpg", "0001", "jpg"),
        ("train/0001.seg.PNG", "train/0001", "seg.png"),
        ("a.b/0001.JPG", "a.b/0001", "jpg"),
        ("README", "README", ""),
        ("./._0001.jpg", "./", "_0001.jpg"),
        (".jpg", "", "jpg"),
        ("0001.", "0001", ""),
        ("../x.jpg", "../x", "jpg"),
        ("/x.tiff", "/x", "tiff"),
        ("a/", "a/", ""),
    ],
)
def test_key_and_extension(member: str, key: str, extension: str) -> None:
    assert key_and_extension(member) == (key, extension)


@given(st.text("ab./J", max_size=12))
def test_nothing_of_a_name_is_lost(member: str) -> None:
    key, extension = key_and_extension(member)
    assert member.lower() in (f"{key}.{extension}".lower(), key.lower())
    assert "/" not in extension


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/a/shard-000.tar", "tar"),
        ("x.TAR", "tar"),
        ("x.tar.gz", "compressed_tar"),
        ("x.tgz", "compressed_tar"),
        ("x.tar.zst", "compressed_tar"),
        ("x.Parquet", "parquet"),
        ("x.pq", "parquet"),
        ("x.txt", "list"),
        ("x.csv", "list"),
        ("x.jsonl", "list"),
        *(
            (f"a.b.{extension}", "image")
            for extension in ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "JPG", "heic", "jxl")
        ),
        ("x.gz", "other"),
        ("x.json", "other"),
        ("x.parquet/part", "other"),
        (".jpg", "other"),
        ("jpg", "other"),
        ("x.jpg/", "other"),
        ("", "other"),
    ],
)
def test_file_kind(name: str, kind: str) -> None:
    assert file_kind(name) == kind


@pytest.mark.parametrize(
    ("extension", "wanted", "is_image"),
    [
        ("jpg", None, True),
        ("heic", None, True),
        ("seg.png", None, False),
        ("json", None, False),
        ("", None, False),
        ("jpg", "png", False),
        ("seg.png", "seg.png", True),
        ("img", "img", True),
    ],
)
def test_is_image_member(extension: str, wanted: str | None, is_image: bool) -> None:
    assert is_image_member(extension, wanted) == is_image
