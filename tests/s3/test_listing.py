"""What listing costs on S3, in requests, and how many of them are on their way at once."""

from collections.abc import Iterator

import pytest
import s3fs

from pipeline.errors import NotReachable
from pipeline.listing.listing import Listing, list_inputs
from pipeline.storage import _store
from tests.support.faulty_s3 import FaultyS3, Request
from tests.support.s3_server import S3Server

BUCKET = "listing"
NAMES = [f"shard-{number:03}.tar" for number in range(128)]


@pytest.fixture(scope="module")
def shards(s3: S3Server) -> str:
    s3.make_bucket(BUCKET)
    files = s3.filesystem()
    for name in (*NAMES, "shard-abc.tar", "shard-0500.tar", "shard-128.tar", "photo.jpg"):
        files.pipe_file(f"{BUCKET}/in/{name}", b"1234")
    return f"s3://{BUCKET}/in"


@pytest.fixture
def asked(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """Every request of this process, as they come."""
    requests: list[Request] = []

    def note(request: Request) -> None:
        requests.append(request)

    with FaultyS3(s3.endpoint, note) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        _store.cache_clear()
        yield requests
    s3fs.S3FileSystem.clear_instance_cache()
    _store.cache_clear()


def _uris(*inputs: str) -> list[str]:
    return [row.uri for row in list_inputs(inputs, Listing())]


def test_names_in_braces_cost_one_listing(shards: str, asked: list[Request]) -> None:
    """It was a HEAD each, one after the other."""
    rows = list(list_inputs([f"{shards}/shard-{{000..127}}.tar"], Listing()))
    assert [row.uri for row in rows] == [f"{shards}/{name}" for name in NAMES]
    assert all(row.size == 4 and (row.version or "").startswith("etag:") for row in rows)
    assert [request.method for request in asked] == ["GET"]


def test_a_few_names_in_braces_are_asked_for(shards: str, asked: list[Request]) -> None:
    assert len(_uris(f"{shards}/shard-{{000..002}}.tar")) == 3
    assert {request.method for request in asked} == {"HEAD"}


def test_an_absent_name_in_braces_is_named(shards: str, asked: list[Request]) -> None:
    with pytest.raises(NotReachable, match=r"shard-129\.tar"):
        _uris(f"{shards}/shard-{{100..140}}.tar")
    assert len(asked) <= 3


def test_a_prefix_that_holds_far_more_than_the_names_is_not_listed_to_its_end(
    shards: str, asked: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.listing.lookups._PAGE", 1)  # so that four pages are four objects
    assert len(_uris(f"{shards}/shard-{{010..109}}.tar")) == 100
    assert sum(request.method == "GET" for request in asked) == 1
    assert sum(request.method == "HEAD" for request in asked) == 100


def test_shards_of_a_list_are_looked_up_tens_at_a_time(shards: str, s3: S3Server, asked: list[Request]) -> None:
    s3.filesystem().pipe_file(f"{BUCKET}/l.txt", "\n".join([*(f"in/{name}" for name in NAMES), "in/photo.jpg"]).encode())
    assert _uris(f"s3://{BUCKET}/l.txt") == [*(f"{shards}/{name}" for name in NAMES), f"{shards}/photo.jpg"]
    heads = [request for request in asked if request.method == "HEAD" and request.path.endswith(".tar")]
    assert len(heads) == len(NAMES)
    assert len(asked) <= len(NAMES) + 4  # the list, twice: its HEAD and its bytes


def test_a_denied_shard_of_a_list_does_not_block_the_rest(shards: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.filesystem().pipe_file(f"{BUCKET}/d.txt", b"in/shard-001.tar\nin/shard-002.tar\nin/gone.tar\n")

    def deny(request: Request) -> str | None:
        return "denied" if "shard-001" in request.path else None

    with FaultyS3(s3.endpoint, deny) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        _store.cache_clear()
        rows = list(list_inputs([f"s3://{BUCKET}/d.txt"], Listing()))
    assert [(row.uri.rpartition("/")[2], row.size) for row in rows] == [
        ("shard-001.tar", None),
        ("shard-002.tar", 4),
        ("gone.tar", None),
    ]
    s3fs.S3FileSystem.clear_instance_cache()
    _store.cache_clear()
