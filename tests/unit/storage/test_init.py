"""URIs: one spelling, no secrets, and the store that answers for them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import NotReachable, UsageError
from pipeline.storage import base_name as base_name_of
from pipeline.storage import join, normalise, scheme_of, store_for, without_query, without_secrets, writable_store_for
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore
from pipeline.storage.uris import parted


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
        ("local:///a/b%20c.jpg", "/a/b c.jpg"),
        ("LOCAL:///a/../b", "/b"),
        ("https://[::1]/a::b", "https://[::1]/a::b"),
        ("s3://bucket/a::b", "s3://bucket/a::b"),
        ("/a::b", "/a::b"),
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
    with pytest.raises(UsageError, match="NUL"):
        normalise("file:///a/%00.jpg")


@pytest.mark.parametrize(
    "uri", ["simplecache::s3://b/x", "filecache://x::/etc/passwd", "zip://a.jpg::file:///etc/x.zip", "dir://x", "generic://etc/passwd",
            "reference://x", "memory://a::/etc/passwd", "asyncwrapper:///etc/passwd", "Cached::file:///etc/passwd"],
)  # fmt: skip
def test_file_systems_that_read_through_others_are_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="another file system"):
        normalise(uri)


def test_a_path_that_looks_like_a_uri_is_told_how_to_be_written() -> None:
    with pytest.raises(UsageError, match="file:///"):
        normalise("my data://x")


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
        ("https://host/img?id=1", "https://host/img?id=1"),
        ("https://host/img?b=2&a=%20&&c#f", "https://host/img?b=2&a=%20&c"),
        ("https://host/img?", "https://host/img"),
        ("https://host/img?id=1&token=x&size=2", "https://host/img?id=1&size=2"),
        ("https://host/img?id=1;token=x", "https://host/img?id=1"),
        (
            "https://host/img?sigma=1&author=me&keyword=cat&monkey=3&expires=1&versionId=v",
            "https://host/img?sigma=1&author=me&keyword=cat&monkey=3&expires=1&versionId=v",
        ),
        (
            "https://b.s3.amazonaws.com/x.jpg?versionId=v&X-Amz-Algorithm=a&X-Amz-Credential=AKIA%2F1&X-Amz-Date=d&X-Amz-Expires=1"
            "&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&x-id=GetObject&X-Amz-Signature=s",
            "https://b.s3.amazonaws.com/x.jpg?versionId=v",
        ),
        ("https://b/x.jpg?AWSAccessKeyId=a&Signature=b%2F&Expires=1&x-amz-security-token=t", "https://b/x.jpg"),
        (
            "https://storage.googleapis.com/b/x.jpg?generation=1&X-Goog-Algorithm=a&X-Goog-Date=d&X-Goog-Expires=1&X-Goog-Signature=s",
            "https://storage.googleapis.com/b/x.jpg?generation=1",
        ),
        ("https://h/x.jpg?GoogleAccessId=a&Expires=1&Signature=s", "https://h/x.jpg"),
        (
            "https://a.blob.core.windows.net/c/x.jpg?snapshot=1&sv=1&st=1&se=2&sr=b&sp=r&spr=https&sip=1&skoid=a&sig=s%3D",
            "https://a.blob.core.windows.net/c/x.jpg?snapshot=1",
        ),
        ("https://d1.cloudfront.net/x.jpg?w=9&Expires=1&Signature=s~&Key-Pair-Id=K", "https://d1.cloudfront.net/x.jpg?w=9"),
        ("https://d1.cloudfront.net/x.jpg?Policy=p&Signature=s&Key-Pair-Id=K", "https://d1.cloudfront.net/x.jpg"),
        (
            "https://p/r?w=9&url=https%3A%2F%2Fu%3Apw%40h%2Fa.jpg%3Fid%3D1%26token%3Dx",
            "https://p/r?w=9&url=https%3A%2F%2Fh%2Fa.jpg%3Fid%3D1",
        ),
        ("https://p/r?url=https://h/a.jpg", "https://p/r?url=https://h/a.jpg"),
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


_NAMES = (
    "token", "access_token", "accessToken", "ACCESS-TOKEN", "api_key", "apikey", "apiKey", "x-api-key", "key", "sig", "signature",
    "Signature", "auth", "authkey", "Authorization", "oauth_token", "password", "pw", "secret", "client_secret", "session",
    "PHPSESSID", "jwt", "hmac", "sas", "AWSAccessKeyId", "X-Amz-Signature", "to%6ben", "policy", "__token__", "idtoken", "sid",
)  # fmt: skip


@given(
    secret=st.text("0123456789abcdef", min_size=8, max_size=20),
    path=st.text(st.characters(categories=["L", "N"]), max_size=10),
    name=st.sampled_from(_NAMES),
)
def test_no_credential_survives_anywhere(secret: str, path: str, name: str) -> None:
    for uri in (
        f"https://{secret}:p@h/{path}",
        f"https://u:{secret}@h/{path}",
        f"https://h/{path}?{name}={secret}",
        f"https://h/{path}?id=1&{name}={secret}&w=2",
        f"https://h/{path}?id=1&w=2;{name}={secret}",
        f"https://h/{path}?t=eyJhbGciOiJIUzI1NiJ9.eyJ1Ijo{secret}.{secret}",
        f"https://h/{path}?url=https%3A%2F%2Fh%2F%3F{name}%3D{secret}",
        f"https://h/#{secret}",
    ):
        assert secret not in without_secrets(uri).removeprefix("https://h").replace(path, "")
        assert without_secrets(without_secrets(uri)) == without_secrets(uri)


@given(st.text("?&=;%#/:@.abAB1-_+\u00e9", max_size=30))
def test_what_is_written_down_stays_as_it_is(rest: str) -> None:
    try:
        written = without_secrets(f"https://h/{rest}")
    except UsageError:
        return
    assert without_secrets(written) == written


def test_what_is_taken_by_its_name_alone_is_told() -> None:
    """A known signature never tells images apart; what only looks like a credential may."""
    assert parted("https://u:p@h/img?id=1&token=x&key=y#f") == ("https://h/img?id=1", "token=x&key=y")
    assert parted("https://h/img?X-Amz-Date=1&X-Amz-Signature=x") == ("https://h/img", "")
    assert parted("https://h/img?Signature=x") == ("https://h/img", "Signature=x")
    assert without_query("https://u:p@h/img.jpg?id=1&key=y#f") == "https://h/img.jpg"
    assert without_query("s3://b/what?.jpg") == "s3://b/what?.jpg"


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
