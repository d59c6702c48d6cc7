"""S3 as it is: throttled, reset, cut short, doubted. What can be asked again is, and counted; nothing is half or twice."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from pipeline.errors import ObjectChanged, ObjectDenied, ObjectMissing, StorageError, StorageRefused
from pipeline.storage import _store, retry
from pipeline.storage import s3 as s3_module
from pipeline.storage.answers import Answers
from pipeline.storage.retry import retries
from pipeline.storage.s3 import S3Store
from tests.conftest import Finished
from tests.support.faulty_s3 import FAULTS, FaultyS3, Request
from tests.support.runs import write_tars
from tests.support.s3_server import S3Server

BUCKET = "faults"
DATA = bytes(range(256)) * 40
FLAGS = ("--weights", "bundled", "--short-side", 64, "--part-images", 8, "--workers", 2)


class _Once:
    """One fault, for the first request that it can be done to."""

    def __init__(self, fault: str) -> None:
        self.fault: str | None = fault
        self.proxy: FaultyS3 | None = None

    def __call__(self, _request: Request) -> str | None:
        return None if self.proxy is not None and self.proxy.done else self.fault


@pytest.fixture
def connect(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], S3Store]]:
    """A store that goes through this endpoint, and does not wait long."""
    monkeypatch.setattr(retry, "ATTEMPTS", 3)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(s3_module, "READ_TIMEOUT_S", 1)
    s3.make_bucket(BUCKET)

    def make(endpoint: str) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        return S3Store()

    yield make
    s3fs.S3FileSystem.clear_instance_cache()
    _store.cache_clear()


@pytest.fixture
def uri(request: pytest.FixtureRequest, s3: S3Server) -> str:
    """Of an object that is there; its folder is the test's own."""
    s3.make_bucket(BUCKET)
    name = f"{BUCKET}/{request.node.name.replace('[', '-').strip(']')}/masks/object"
    s3.filesystem().pipe_file(name, DATA)
    return f"s3://{name}"


@pytest.mark.parametrize("fault", [*FAULTS, "stall"])
def test_a_fault_is_asked_about_again_and_counted(fault: str, s3: S3Server, connect: Callable[[str], S3Store], uri: str) -> None:
    once = _Once(fault)
    with FaultyS3(s3.endpoint, once) as proxy:
        once.proxy = proxy
        store, before = connect(proxy.endpoint), retries()
        asks: tuple[Callable[[], object], ...] = (
            lambda: store.read(uri) == DATA,
            lambda: store.read(uri, 100, 1000) == DATA[100:1100],
            lambda: store.stat(uri).size == len(DATA),
            lambda: [found.uri for found in store.walk(uri.rpartition("/")[0] + "/")] == [uri],
            lambda: store.create(uri + "2", b"new"),
            lambda: store.replace(uri + "2", b"newer"),
        )
        for ask in asks:
            proxy.done.clear()
            asked = sum((retries() - before).values())
            assert ask()
            again, done = sum((retries() - before).values()) - asked, proxy.done.total()
            assert done <= 1
            # Where a connection that was used before breaks without an answer, aiohttp asks again by itself, and tells nobody.
            assert again == done or (fault == "lost" and again == 0)
        assert fault == "lost" or sum((retries() - before).values()) > 0  # it was done to some of them
        assert store.read(uri + "2") == b"newer"


@pytest.mark.parametrize("fault", ["slow_down", "internal", "full", "reset", "truncated", "short", "conflict", "lost"])
def test_what_stays_broken_is_an_error_and_leaves_no_half_object(
    fault: str, s3: S3Server, connect: Callable[[str], S3Store], uri: str
) -> None:
    with FaultyS3(s3.endpoint, lambda _: fault) as proxy:
        store = connect(proxy.endpoint)
        reads, puts = fault not in ("conflict", "lost"), fault in ("slow_down", "internal", "full", "conflict")
        if reads:
            with pytest.raises(StorageError) as error:
                store.read(uri)
            assert type(error.value) is StorageError
        if puts:
            with pytest.raises(StorageError) as error:
                store.create(uri + "2", b"new")
            assert type(error.value) is StorageError
            assert not s3.filesystem().exists(uri + "2")
        if fault == "lost":  # it is there, and only the answers were lost: the last one too, so that nobody can know
            with pytest.raises(StorageError):
                store.create(uri + "2", b"new")
            assert s3.filesystem().cat_file(uri + "2") == b"new"
        if fault == "lost":  # aiohttp asks again, too
            assert retry.ATTEMPTS <= proxy.done.total() <= 2 * retry.ATTEMPTS
        else:
            assert proxy.done.total() == retry.ATTEMPTS * (reads + puts or 1)


def test_a_lost_answer_is_no_win_over_what_another_wrote(s3: S3Server, connect: Callable[[str], S3Store], uri: str) -> None:
    once = _Once("lost")
    with FaultyS3(s3.endpoint, once) as proxy:
        once.proxy = proxy
        store = connect(proxy.endpoint)
        assert not store.create(uri, b"mine")  # the server refused, the answer was lost, and then it refused again
        assert store.read(uri) == DATA


def test_a_name_that_is_taken_by_nobody_is_not_written(s3: S3Server, connect: Callable[[str], S3Store], uri: str) -> None:
    with FaultyS3(s3.endpoint, lambda _: "exists") as proxy:
        assert not connect(proxy.endpoint).create(uri + "2", b"new")
    assert not s3.filesystem().exists(uri + "2")


@pytest.mark.parametrize("fault", ["skew", "expired"])
def test_what_will_not_get_better_is_not_asked_again(
    fault: str, s3: S3Server, connect: Callable[[str], S3Store], uri: str
) -> None:
    with FaultyS3(s3.endpoint, lambda _: fault) as proxy:
        with pytest.raises(StorageRefused):
            connect(proxy.endpoint).read(uri)
        assert proxy.done.total() == 1


def test_an_object_that_changes_between_two_reads_is_noticed(s3: S3Server, connect: Callable[[str], S3Store], uri: str) -> None:
    store = connect(s3.endpoint)
    info = store.stat(uri)
    assert store.read(uri, 0, 10, info.version) == DATA[:10]
    s3.filesystem().pipe_file(uri, DATA[::-1])
    with pytest.raises(ObjectChanged):
        store.read(uri, 10, 10, info.version)


# Whole runs, in processes of their own.


@pytest.fixture(scope="module")
def shards(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """6 shards of 16 images."""
    s3.make_bucket(BUCKET)
    folder = write_tars(tmp_path_factory.mktemp("shards"), 6, 16)
    for file in folder.iterdir():
        s3.filesystem().pipe_file(f"{BUCKET}/shards/{file.name}", file.read_bytes())
    return f"s3://{BUCKET}/shards/"


@pytest.fixture(scope="module")
def undisturbed(shards: str, s3: S3Server, job: Callable[..., Finished]) -> dict[str, bytes]:
    """The parts of a run without faults."""
    done = job("segment", "--input", shards, "--output", f"s3://{BUCKET}/undisturbed", *FLAGS)
    assert done.code == 0, done
    assert _run(s3, "undisturbed")["attempts"][-1]["retries"] == {}
    return _parts(s3, "undisturbed")


def _parts(s3: S3Server, out: str) -> dict[str, bytes]:
    files = s3.filesystem()
    files.invalidate_cache()
    return {name.rpartition("/")[2]: files.cat_file(name) for name in files.ls(f"{BUCKET}/{out}/masks")}


def _run(s3: S3Server, out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(s3.filesystem().cat_file(f"{BUCKET}/{out}/run.json"))
    return found


def test_a_run_through_many_faults_is_the_same_and_tells_of_them(
    shards: str, undisturbed: dict[str, bytes], s3: S3Server, job: Callable[..., Finished]
) -> None:
    draw = random.Random(3)
    with FaultyS3(s3.endpoint, lambda _: draw.choice(FAULTS) if draw.random() < 0.4 else None) as proxy:
        env = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        done = job("segment", "--input", shards, "--output", f"s3://{BUCKET}/many", *FLAGS, env=env)
        faults, lost = proxy.done.total(), proxy.done["lost"]
    assert done.code == 0, done
    assert _parts(s3, "many") == undisturbed
    run = _run(s3, "many")
    assert run["labels_digest"] == _run(s3, "undisturbed")["labels_digest"]
    told = sum(run["attempts"][-1]["retries"].values())
    assert faults > 10
    assert faults - lost - 3 <= told <= faults  # but for those that aiohttp asked again about, and those after it was written


@pytest.mark.parametrize(("closed", "own"), [(("0.jpg",), True), (("0.jpg", "1.jpg", "2.jpg"), False)])
def test_one_closed_object_is_its_own_fault_and_all_are_the_credentials(
    s3: S3Server, connect: Callable[[str], S3Store], closed: tuple[str, ...], own: bool
) -> None:
    """A role that may list, and read nothing: what it denies is not final."""
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        s3.filesystem().pipe_file(f"{BUCKET}/roles/{name}", DATA)
    with FaultyS3(s3.endpoint, lambda asked: "denied" if asked.path.endswith(closed) else None) as proxy:
        store, answers = connect(proxy.endpoint), Answers()
        denied = f"s3://{BUCKET}/roles/0.jpg"
        with pytest.raises(ObjectDenied) as caught:
            store.read(denied)
        assert answers.is_its_own(denied, caught.value, since=time.monotonic()) is own
        gone = f"s3://{BUCKET}/roles/gone.jpg"
        with pytest.raises(ObjectMissing) as missing:
            store.read(gone)
        assert answers.is_its_own(gone, missing.value, since=time.monotonic())  # the bucket does not list it


def test_a_prefix_that_was_emptied_is_gone_and_a_bucket_that_is_none_says_nothing(
    s3: S3Server, connect: Callable[[str], S3Store]
) -> None:
    store = connect(s3.endpoint)
    for bucket, own in ((BUCKET, True), ("no-such-bucket", False)):
        with pytest.raises(StorageError) as missing:
            store.stat(f"s3://{bucket}/emptied/a.tar")  # a HEAD, in whose answer both are 404
        assert Answers().is_its_own(f"s3://{bucket}/emptied/a.tar", missing.value, since=time.monotonic()) is own


def test_a_clock_that_is_wrong_from_the_start_is_exit_4_in_one_line(
    shards: str, s3: S3Server, job: Callable[..., Finished]
) -> None:
    with FaultyS3(s3.endpoint, lambda _: "skew") as proxy:
        env = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        done = job("segment", "--input", shards, "--output", f"s3://{BUCKET}/skew", *FLAGS, env=env)
    assert done.code == 4
    assert len(done.err.splitlines()) == 1
    assert "RequestTimeTooSkewed" in done.err


@pytest.mark.slow
def test_a_token_that_expires_is_exit_5_and_another_one_goes_on(
    shards: str, undisturbed: dict[str, bytes], s3: S3Server, job: Callable[..., Finished]
) -> None:
    puts = 0

    def expires(request: Request) -> str | None:
        nonlocal puts
        puts += request.is_conditional_put and "/.tmp/" not in request.path
        return "expired" if puts > 4 else None

    command = ("--input", shards, "--output", f"s3://{BUCKET}/expires", *FLAGS)
    with FaultyS3(s3.endpoint, expires) as proxy:
        done = job("segment", *command, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})
    assert done.code == 5, done
    assert "ExpiredToken" in done.err
    assert "Traceback" not in done.err
    there = _parts(s3, "expires")
    assert 0 < len(there) < len(undisturbed)
    assert there.items() <= undisturbed.items()
    assert job("segment", *command).code == 0
    assert _parts(s3, "expires") == undisturbed


@pytest.mark.slow
def test_a_part_that_cannot_be_written_is_left_and_the_rest_is_labelled(
    shards: str, undisturbed: dict[str, bytes], s3: S3Server, job: Callable[..., Finished]
) -> None:
    victim = sorted(undisturbed)[3]
    command = ("--input", shards, "--output", f"s3://{BUCKET}/refused", *FLAGS)

    def refused(request: Request) -> str | None:
        """Only the put: an answer to HEAD has no body that could say SlowDown."""
        return "slow_down" if request.method == "PUT" and victim in request.path else None

    with FaultyS3(s3.endpoint, refused) as proxy:
        done = job("segment", *command, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint}, timeout_s=900)
    assert done.code == 5, done
    assert "SlowDown" in done.err
    there = _parts(s3, "refused")
    assert victim not in there
    assert there.items() <= undisturbed.items()
    assert len(there) >= len(undisturbed) - 2  # its span was left there
    assert _run(s3, "refused")["state"] == "incomplete"
    assert job("segment", *command).code == 0
    assert _parts(s3, "refused") == undisturbed


@pytest.mark.slow
def test_a_shard_that_changes_during_the_run_is_noticed(s3: S3Server, job: Callable[..., Finished], tmp_path: Path) -> None:
    files = s3.filesystem()
    for file in write_tars(tmp_path / "in", 3, 8).iterdir():
        files.pipe_file(f"{BUCKET}/changing/{file.name}", file.read_bytes())
    changed = write_tars(tmp_path / "later", 1, 8, first=9) / "shard-009.tar"
    puts = 0

    def replace_one(request: Request) -> None:
        nonlocal puts
        puts += request.is_conditional_put
        if puts == 1 and request.is_conditional_put:  # planned, and not yet read
            files.pipe_file(f"{BUCKET}/changing/shard-001.tar", changed.read_bytes())

    command = ("--input", f"s3://{BUCKET}/changing/", "--output", f"s3://{BUCKET}/changed", *FLAGS)
    with FaultyS3(s3.endpoint, replace_one) as proxy:
        done = job("segment", *command, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})
    assert done.code == 5, done
    assert "changed since it was listed" in done.err
    assert len(_parts(s3, "changed")) == 2
    again = job("segment", *command)
    assert again.code == 2
    assert "--relabel-changed" in again.err
    assert job("segment", *command, "--relabel-changed").code == 0
    assert len(_parts(s3, "changed")) == 3
