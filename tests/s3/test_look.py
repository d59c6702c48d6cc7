"""`look` at a run on a real S3 server: few requests, and a line for every photograph that the server does not give."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.look.choose import Where
from pipeline.look.look import look
from pipeline.storage.s3 import S3Store
from tests.conftest import Finished
from tests.support.runs import segment
from tests.support.s3_server import S3Server
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")
IMAGES, PARTS = 40, 10


@pytest.fixture(scope="module")
def out(s3: S3Server) -> str:
    """40 images of two tars in parts of four, with confidence maps."""
    s3.make_bucket("look")
    for shard in range(2):
        s3.filesystem().pipe_file(f"look/in/{shard}.tar", tar_bytes(photos(20, first=1 + 20 * shard)))
    segment("s3://look/in/", "s3://look/out", confidence_map=True)
    return "s3://look/out"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all objects that are read, in order."""
    asked: list[str] = []
    real = S3Store._request

    async def watched(self: S3Store, method: str, **arguments: object) -> dict[str, object]:
        if method == "get_object":
            asked.append(str(arguments["Key"]))
        return await real(self, method, **arguments)

    monkeypatch.setattr(S3Store, "_request", watched)
    return asked


def test_three_images_at_random_take_three_parts_and_three_ranges(out: str, requests: list[str]) -> None:
    found = look(out, Where(), images=3)
    assert [tile.note for tile in found.tiles] == [""] * 3
    parts = [key for key in requests if key.startswith("out/masks/")]
    assert len(set(parts)) <= 3
    assert len(parts) <= 3 * 4  # twice a footer, and the rows
    assert len([key for key in requests if key.startswith("in/")]) == 3


def test_the_least_confident_takes_a_column_of_each_part(out: str, requests: list[str]) -> None:
    found = look(out, Where.parse("least-confident"), images=2)
    parts = [key for key in requests if key.startswith("out/masks/")]
    assert len(set(parts)) == PARTS
    assert len(parts) <= PARTS * 3 + 2 * 4
    assert len(found.tiles) == 2


def test_the_job_on_s3(out: str, s3: S3Server, job: Callable[..., Finished], tmp_path: Path) -> None:
    done = job("look", out, "--where", "least-confident", "--to", tmp_path / "x.jpg", "--json", tmp_path / "x.json", env=s3.env)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "x.json").read_text())
    assert (len(told["shown"]), told["images"]) == (12, IMAGES)
    assert [row["problem"] for row in told["shown"]] == [None] * 12
    with Image.open(tmp_path / "x.jpg") as picture:
        assert picture.height > 12 * 192


def test_photographs_that_were_replaced_or_removed_since(s3: S3Server) -> None:
    s3.make_bucket("look-changed")
    files = s3.filesystem()
    for name in ("a", "b", "c"):
        files.pipe_file(f"look-changed/in/{name}.tar", tar_bytes(photos(2)))
    segment("s3://look-changed/in/", "s3://look-changed/out")
    files.pipe_file("look-changed/in/a.tar", tar_bytes(photos(2, first=50)))
    files.rm_file("look-changed/in/b.tar")
    found = look("s3://look-changed/out", Where())
    assert [tile.note for tile in found.tiles] == [
        *["The photograph has changed since it was labelled."] * 2, *["The photograph is gone."] * 2, "", "",
    ]  # fmt: skip
    found.sheet()


def test_a_bucket_that_refuses_is_exit_4_in_one_line(
    out: str, s3: S3Server, job: Callable[..., Finished], tmp_path: Path
) -> None:
    for env, uri in ((s3.denied_env, out), (s3.env, "s3://look/no-run"), (s3.env, "s3://no-such-bucket/out")):
        done = job("look", uri, "--to", tmp_path / "x.jpg", env=env)
        assert done.code == 4, done.err
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "x.jpg").exists()
