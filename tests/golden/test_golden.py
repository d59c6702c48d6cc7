"""Outputs as older versions left them: opened, verified, finished and redone by this one."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from pipeline import open_run
from pipeline.errors import RunMismatch
from pipeline.labels.png import decode_png
from pipeline.output.parts import list_parts
from pipeline.plan.fingerprint import engine_release
from pipeline.storage import writable_store_for
from pipeline.sums.checkpoint import Checkpoint
from pipeline.verify.verify import verify
from tests.golden.make import BUCKET, HERE, MODEL, OUTPUTS, lay
from tests.support.runs import Rows, read_rows, segment

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server

FORMATS = sorted(folder.name for folder in HERE.glob("format*"))
EVERY = [(kept, output) for kept in FORMATS for output in OUTPUTS]


@pytest.fixture(scope="module")
def laid(s3: "S3Server") -> str:
    """The bucket that the outputs were made from."""
    lay(s3)
    return f"s3://{BUCKET}"


@pytest.fixture
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kept, output = request.param
    return Path(shutil.copytree(HERE / kept / output, tmp_path / "out"))


def _segment(laid: str, out: Path, **flags: object) -> dict[str, object]:
    """The command that made it, again. Raises what the job would, and skips if this engine is another one."""
    shape: dict[str, object] = {
        "model": MODEL, "weights": f"{laid}/weights.safetensors", "short_side": 64, "part_images": 3, "workers": 1,
        "failure_budget": 1.0, "allow_broken_shards": 1,
    }  # fmt: skip
    if open_run(str(out)).info["shape"]["confidence_map"]:
        shape |= {"confidence_map": True, "min_confidence": open_run(str(out)).info["labels"]["min_confidence"]}
    made_with = open_run(str(out)).info["labels"]["engine"]
    if made_with != engine_release("openvino"):
        with pytest.raises(RunMismatch, match=made_with):
            segment(f"{laid}/input", out, **(shape | flags))
        pytest.skip(f"made with {made_with}; openvino {version('openvino')} is installed, whose labels may be others")
    return segment(f"{laid}/input", out, **(shape | flags)).run


def _check_all_is_there(rows: Rows) -> None:
    keys = [(key.removeprefix(f"s3://{BUCKET}/input/"), index) for key, index in rows.keys]
    wanted = {"a.tar": 7, "b.tar": 3, "c.parquet": 4, "single/plain.png": 1, "single/turned.jpg": 1}
    assert keys == [(name, index) for name, count in wanted.items() for index in range(count)]
    assert sorted(row["error"] for row in rows.failures) == ["BrokenShard", "CorruptImage", "MissingImage"]


@pytest.mark.parametrize("out", EVERY, indirect=True, ids="-".join)
def test_it_opens(out: Path, laid: str) -> None:
    run = open_run(str(out))
    rows = run.masks.to_table().to_pylist()
    assert len(rows) == run.info["counts"]["masks"]
    assert run.failures.count_rows() == run.info["counts"]["failures"]
    assert run.class_stats.num_rows == 5
    row = next(row for row in rows if row["offset"] is not None)
    assert run.image(row).size == (row["width"], row["height"]) == decode_png(row["mask"]["bytes"]).shape[::-1]


@pytest.mark.parametrize("out", EVERY, indirect=True, ids="-".join)
def test_it_verifies(out: Path) -> None:
    complete = open_run(str(out)).info["state"] == "complete"
    found = verify(str(out), deep=True)
    assert (found.state, [finding.kind for finding in found.findings if finding.kind != "missing"]) == (
        "whole" if complete else "incomplete", [],
    )  # fmt: skip


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("out", [pair for pair in EVERY if pair[1] == "complete"], indirect=True, ids="-".join)
def test_a_rerun_finds_nothing_to_do_and_redo_does_it_again(out: Path, laid: str) -> None:
    before, digest = read_rows(out), open_run(str(out)).info["labels_digest"]
    run = _segment(laid, out)
    assert run["counts"]["inferred"] == 0  # type: ignore[index]
    assert (run["labels_digest"], read_rows(out)) == (digest, before)
    run = _segment(laid, out, redo="CorruptImage")
    assert run["counts"]["inferred"] == 2  # type: ignore[index]
    _check_all_is_there(read_rows(out))
    assert verify(str(out), deep=True).state == "whole"


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("out", [pair for pair in EVERY if pair[1] == "incomplete"], indirect=True, ids="-".join)
def test_the_same_command_finishes_it(out: Path, laid: str) -> None:
    before = {file.name: file.read_bytes() for file in (out / "masks").iterdir()}
    run = _segment(laid, out)
    assert run["counts"]["skipped"] == 6  # type: ignore[index]
    assert run["state"] == "complete"
    _check_all_is_there(read_rows(out))
    assert verify(str(out), deep=True).state == "whole"
    assert {name: (out / "masks" / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(("kept", "output"), [pair for pair in EVERY if (HERE.joinpath(*pair) / "checkpoint.parquet").exists()])
def test_its_checkpoint_is_provable_where_it_was_made(kept: str, output: str, s3: "S3Server") -> None:
    """On S3, whose versions are of the bytes."""
    bucket = f"{kept}-{output}"
    s3.make_bucket(bucket)
    for path in (HERE / kept / output).rglob("*.parquet"):
        s3.filesystem().pipe_file(f"{bucket}/{path.relative_to(HERE / kept / output)}", path.read_bytes())
    info = open_run(str(HERE / kept / output)).info
    store, out = writable_store_for(f"s3://{bucket}"), f"s3://{bucket}"
    listed = list_parts(store, out)
    found, _ = Checkpoint(store, out, info["fingerprint"], tuple(info["labels"]["classes"])).load(listed, lambda: listed)
    assert found is not None
    assert found.is_exactly(listed.part_keys)
    assert (found.labels_digest, found.images) == (info["labels_digest"], info["counts"]["images"])


@pytest.mark.parametrize("out", EVERY, indirect=True, ids="-".join)
def test_its_plan_file_is_what_was_planned(out: Path, laid: str) -> None:
    uris = pq.read_table(out / "plan" / "00000.parquet").column("uri").to_pylist()
    assert uris == [f"{laid}/input/{name}" for name in ("a.tar", "b.tar", "c.parquet")]
