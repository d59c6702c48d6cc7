"""The job on a real S3 server: shards in, labels out, by ranges and conditional puts."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.api.opened import open_run
from pipeline.errors import NotReachable, ObjectChanged, ShardChanged
from pipeline.storage import store_for
from pipeline.storage.s3 import S3Store
from tests.conftest import Finished
from tests.support.runs import segment
from tests.support.s3_server import S3Server
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    """A bucket with 3 shards of 10 images below `shards/`."""
    s3.make_bucket("photos")
    files = s3.filesystem()
    for shard in range(3):
        files.pipe_file(f"photos/shards/{shard:03d}.tar", tar_bytes(photos(10, first=1 + 10 * shard)))
    return "s3://photos"


def _objects(uri: str) -> dict[str, bytes]:
    store = store_for(uri)
    return {info.uri.rpartition("/")[2]: store.read(info.uri) for info in store.walk(uri + "/")}


def test_shards_on_s3_to_labels_on_s3(bucket: str, tmp_path: Path) -> None:
    outcome = segment(f"{bucket}/shards/", f"{bucket}/labels")
    assert outcome.error is None
    assert outcome.run["counts"]["masks"] == 30
    assert segment(f"{bucket}/shards/", f"{bucket}/labels").run["counts"]["inferred"] == 0
    local = segment(f"{bucket}/shards/", tmp_path / "out")  # a part is the same bytes wherever it lies
    assert local.run["labels_digest"] == outcome.run["labels_digest"]
    assert {file.name: file.read_bytes() for file in (tmp_path / "out" / "masks").iterdir()} == _objects(f"{bucket}/labels/masks")


def test_a_photograph_comes_by_one_range_read(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segment(f"{bucket}/shards/", f"{bucket}/labels")
    run = open_run(f"{bucket}/labels")
    row = run.masks.to_table(filter=None).to_pylist()[7]
    requests: list[tuple[str, object]] = []
    real = S3Store._request

    async def watched(self: S3Store, method: str, **arguments: object) -> dict[str, object]:
        requests.append((method, arguments.get("Range")))
        return await real(self, method, **arguments)

    monkeypatch.setattr(S3Store, "_request", watched)
    wanted = [("get_object", f"bytes={row['offset']}-{row['offset'] + row['length'] - 1}")]
    assert run.image(row).size == (row["width"], row["height"])
    assert requests[-1:] == wanted
    assert len(requests) <= 4  # the plan, once: is this row's shard in it?
    requests.clear()
    assert run.image(row).size == (row["width"], row["height"])
    assert requests == wanted


def test_a_photograph_that_was_replaced_since_is_not_taken_for_it(s3: S3Server) -> None:
    s3.make_bucket("replaced")
    s3.filesystem().pipe_file("replaced/in/a.tar", tar_bytes(photos(3)))
    segment("s3://replaced/in/", "s3://replaced/out")
    rows = open_run("s3://replaced/out").masks.to_table().to_pylist()
    s3.filesystem().pipe_file("replaced/in/a.tar", tar_bytes(photos(3, first=50)))
    with pytest.raises(ObjectChanged, match=r"s3://replaced/in/a\.tar"):
        open_run("s3://replaced/out").image(rows[0])


def test_a_resume_in_the_middle_of_a_tar_does_not_read_its_beginning(s3: S3Server) -> None:
    from pipeline.config import SegmentConfig, Workers
    from pipeline.driver.attempt import Attempt
    from pipeline.driver.progress import Progress
    from pipeline.labels.prepare import prepare
    from pipeline.output.parts import list_parts
    from pipeline.output.remaining import remaining_spans
    from pipeline.plan.options import label_options, network_request, read_options
    from pipeline.plan.plan import read_plan
    from pipeline.worker.span_worker import SegmentSpan, WorkerConfig

    s3.make_bucket("resume")
    s3.filesystem().pipe_file("resume/in/a.tar", tar_bytes(photos(12)))
    out = "s3://resume/out"
    config = SegmentConfig(
        input=("s3://resume/in/",), output=out, weights="bundled", short_side=64, part_images=4, limit=8, workers=Workers(1, 1)
    )
    Attempt(config, Progress()).run()
    store = S3Store()
    plan = read_plan(store, out)
    assert plan is not None
    (span,) = remaining_spans(plan, list_parts(store, out), part_images=4, workers=1)
    assert (span.first, span.previous is not None) == (8, True)
    network = prepare(network_request(config))
    worker = SegmentSpan(
        WorkerConfig(
            output=out, fingerprint=plan.settings["fingerprint"], part_images=4, read=read_options(config),
            labels=label_options(config, network),
        ),
        network,
    )  # fmt: skip
    starts: list[int] = []
    reading = store_for("s3://resume/in/a.tar")
    real = reading.read

    def watched(
        uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        if uri.endswith(".tar"):
            starts.append(start)
        return real(uri, start, length, version, max_bytes)

    reading.read = watched  # type: ignore[method-assign]
    try:
        reports = list(worker(span))
    finally:
        del reading.read
    assert [report.rows for report in reports] == [4]
    assert min(starts) > len(tar_bytes(photos(7)))  # behind the seventh image


def test_parquet_lists_and_single_images_on_s3(s3: S3Server) -> None:
    from tests.support.parquets import parquet_bytes

    s3.make_bucket("mixed")
    files = s3.filesystem()
    data = [data for _, data in photos(5)]
    files.pipe_file("mixed/in/a.parquet", parquet_bytes(data))
    for name, image in photos(3, first=20):
        files.pipe_file(f"mixed/in/folder with ünïcode/{name}", image)
    outcome = segment("s3://mixed/in/", "s3://mixed/out")
    assert outcome.run["counts"]["masks"] == 8
    run = open_run("s3://mixed/out")
    for photograph, mask in run.pairs():
        assert photograph.size == mask.size
    files.pipe_file("mixed/list.txt", "\n".join(f"in/folder with ünïcode/{name}" for name, _ in photos(3, first=20)).encode())
    assert segment("s3://mixed/list.txt", "s3://mixed/out2").run["counts"]["masks"] == 3


def test_an_object_that_changed_since_it_was_planned_is_noticed(s3: S3Server) -> None:
    s3.make_bucket("changed")
    files = s3.filesystem()
    files.pipe_file("changed/in/a.tar", tar_bytes(photos(6)))
    segment("s3://changed/in/", "s3://changed/out", limit=4)
    files.pipe_file("changed/in/a.tar", tar_bytes(photos(6, first=50)))
    with pytest.raises(ShardChanged, match=r"s3://changed/in/a\.tar"):
        segment("s3://changed/in/", "s3://changed/out")


def test_a_prefix_that_does_not_exist_and_a_bucket_that_does_not(bucket: str, s3: S3Server) -> None:
    for source in (f"{bucket}/nothing/", "s3://no-such-bucket/x/", f"{bucket}/shards/absent.tar"):
        with pytest.raises(NotReachable):
            segment(source, f"{bucket}/never")
    assert not s3.filesystem().exists("photos/never")


def test_a_bucket_that_refuses_is_exit_4_in_one_line(bucket: str, s3: S3Server, job: Callable[..., Finished]) -> None:
    done = job(
        "segment", "--input", f"{bucket}/shards/", "--output", f"{bucket}/never", "--weights", "bundled", env=s3.denied_env
    )
    assert done.code == 4
    assert len(done.err.splitlines()) == 1
    assert "access denied" in done.err
    wrong = s3.env | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    done = job("segment", "--input", f"{bucket}/shards/", "--output", f"{bucket}/never", "--weights", "bundled", env=wrong)
    assert done.code == 4
    assert len(done.err.splitlines()) == 1


def test_two_plans_at_the_same_second_on_an_empty_output(bucket: str) -> None:
    from pipeline.plan.plan import Plan, extend_plan, read_plan
    from pipeline.shards.base import SourceObject

    plans: list[Plan] = []

    def make(names: range) -> None:
        shards = (SourceObject(uri=f"s3://x/{name}.tar", kind="tar", size=1, version="etag:1") for name in names)
        plans.append(extend_plan(S3Store(), f"{bucket}/race", None, shards, {"fingerprint": "f"}))

    threads = [threading.Thread(target=make, args=(names,)) for names in (range(60), range(30, 90))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_plan(S3Store(), f"{bucket}/race")
    assert found is not None
    assert len(found.shards) == 90
    assert sum(file.rows for file in found.files) == 90  # each once


def test_run_json_says_no_secret(bucket: str, s3: S3Server) -> None:
    segment(f"{bucket}/shards/", f"{bucket}/labels")
    text = json.dumps(open_run(f"{bucket}/labels").info)
    assert s3.secret_key not in text
    assert s3.access_key not in text
