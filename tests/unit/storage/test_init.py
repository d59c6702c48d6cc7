"""URIs: one spelling, no secrets, and the store that answers for them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import NotReachable, UsageError
from pipeline.storage import base_name as base_name_of
from pipeline.storage import join, normalise, scheme_of, store_for, without_secrets, writable_store_for
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [("/a/b", "file"), ("a://", "a"), ("S3://b/k", "s3"), ("file:///a", "file"), ("C:/x", "file"), ("https://h/x://y", "https")],
)
def test_scheme_of(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


@pytest.mark.parametrize(
    ("uri", "normalised"),
    [
        ("/a/./b/../c.tar", "/a/c.tar"),
        ("/a//b/", "/a/b/"),
        ("//a/b", "/a/b"),
        ("/", "/"),
        ("file:///a/b%20c.jpg", "/a/b c.jpg"),
        ("FILE:///a/b", "/a/b"),
        ("/a/b%20c?d#e.jpg", "/a/b%20c?d#e.jpg"),
        ("s3://bucket/a/../b//c", "s3://bucket/a/../b//c"),
        ("s3a://bucket/key", "s3://bucket/key"),
        ("S3N://bucket/Key", "s3://bucket/Key"),
        ("HTTPS://Host/x?y=1", "https://Host/x?y=1"),
    ],
)
def test_normalise(uri: str, normalised: str) -> None:
    assert normalise(uri) == normalised


def test_normalise_relative_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert normalise("data/x.tar") == f"{tmp_path}/data/x.tar"
    assert normalise("data/") == f"{tmp_path}/data/"
    assert normalise("~/x.tar") == f"{tmp_path}/home/x.tar"


def test_normalise_refuses_what_no_system_can_open() -> None:
    with pytest.raises(UsageError, match="NUL"):
        normalise("/a/\0.jpg")


@given(st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), max_size=30))
def test_normalised_paths_are_absolute_and_stay_as_they_are(path: str) -> None:
    for uri in (path, "/" + path):
        if "://" not in uri:
            normalised = normalise(uri)
            assert normalised.startswith("/")
            assert not normalised.startswith("//")
            assert normalise(normalised) == normalised


@pytest.mark.parametrize(
    ("uri", "written"),
    [
        ("https://user:secret@host:8080/a/b.jpg?X-Amz-Signature=1#f", "https://host:8080/a/b.jpg"),
        ("https://host/a%20b.jpg", "https://host/a%20b.jpg"),
        ("ftp://user:secret@host/x", "ftp://host/x"),
        ("az://container@account/what?#not.jpg", "az://container@account/what?#not.jpg"),
        ("gs://bucket/what?#not.jpg", "gs://bucket/what?#not.jpg"),
        ("memory:///a/b", "memory:///a/b"),
        ("s3://bucket/what?#not.jpg", "s3://bucket/what?#not.jpg"),
        ("/data/what?#not@a.jpg", "/data/what?#not@a.jpg"),
    ],
)
def test_without_secrets(uri: str, written: str) -> None:
    assert without_secrets(uri) == written


@given(
    secret=st.text("0123456789abcdef", min_size=8, max_size=20),
    path=st.text(st.characters(categories=["L", "N"]), max_size=10),
)
def test_no_credential_survives_anywhere(secret: str, path: str) -> None:
    for uri in (
        f"https://{secret}:p@h/{path}",
        f"https://u:{secret}@h/{path}",
        f"https://h/{path}?t={secret}",
        f"https://h/#{secret}",
    ):
        assert secret not in without_secrets(uri).removeprefix("https://h").removesuffix(path)
        assert without_secrets(without_secrets(uri)) == without_secrets(uri)


def test_a_uri_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="URI"):
        without_secrets("https://[host/a.jpg")


def test_join_and_base_name() -> None:
    assert join("/out/", "masks", "x.parquet") == "/out/masks/x.parquet"
    assert join("s3://b/out", "plan/00000.parquet") == "s3://b/out/plan/00000.parquet"
    assert base_name_of("https://h/a/list.csv?token=a/b") == "list.csv"


def test_stores_by_scheme_and_one_a_process() -> None:
    assert isinstance(store_for("/a"), LocalStore)
    assert store_for("/a") is store_for("file:///b")
    assert isinstance(store_for("memory://a"), RemoteStore)
    assert isinstance(writable_store_for("/a"), LocalStore)


def test_unknown_schemes_are_not_reachable() -> None:
    with pytest.raises(NotReachable, match="nosuch"):
        store_for("nosuch://a/b")


@pytest.mark.parametrize("uri", ["https://host/out", "gs://bucket/out", "memory://out"])
def test_outputs_go_where_creation_is_exclusive(uri: str) -> None:
    with pytest.raises(UsageError, match="local path or s3"):
        writable_store_for(uri)


def test_a_fork_makes_its_own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = store_for("/a")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert store_for("/a") is not mine
