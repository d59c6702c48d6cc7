"""The examples of the documents and of the docstrings, executed."""

import doctest
from collections import Counter
from pathlib import Path

import pytest

import pipeline.api.opened
import pipeline.api.segmenter
import pipeline.shards.names
from tests.conftest import ROOT
from tests.support.documents import LIVING, blocks, text_of
from tests.support.runs import segment
from tests.support.tars import photos

BLOCKS = [(name, block) for name in LIVING for block in blocks(text_of(name), "python")]


@pytest.mark.parametrize("module", [pipeline.api.segmenter, pipeline.api.opened, pipeline.shards.names])
def test_docstrings(module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    results = doctest.testmod(module, optionflags=flags)  # type: ignore[arg-type]
    assert results.attempted > 0
    assert results.failed == 0


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A folder with `out/quickstart`, as after `make quickstart`, and with photographs."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for name, data in photos(2):
        (folder / "photos" / name).write_bytes(data)
    segment(ROOT / "jobs" / "sample", folder / "out" / "quickstart", confidence_map=True)
    return folder


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(BLOCKS)])
def test_blocks_of_python(quickstart: Path, name: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(quickstart)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    block = block.replace('"photos/"', repr(str(quickstart / "photos")))  # Ray's workers stay in the folder that it began in
    exec(compile(block, f"a block of {name}", "exec"), {})  # noqa: S102 - our own document


def test_the_documents_have_their_examples() -> None:
    counts = Counter(name for name, _ in BLOCKS)
    assert counts["README.md"] >= 4
    assert counts["pipeline/api/README.md"] >= 3
    assert counts["pipeline/output/README.md"] >= 1


@pytest.mark.usefixtures("local_ray")
def test_segment_batch_in_a_pipeline_of_ray_data() -> None:
    import ray.data
    from ray.data import ActorPoolStrategy

    from pipeline import SegmentBatch

    rows = [{"name": name, "image": data} for name, data in photos(3)] + [{"name": "bad", "image": b"<html>"}]
    labelled = ray.data.from_items(rows).map_batches(
        SegmentBatch, batch_format="pyarrow", compute=ActorPoolStrategy(size=1), fn_constructor_kwargs={"short_side": 64}
    )
    found = {row["name"]: row for row in labelled.take_all()}
    assert found["bad"]["mask"] is None
    assert found["bad"]["error"].startswith("CorruptImage")
    assert all(found[name]["mask"]["bytes"].startswith(b"\x89PNG") and found[name]["error"] is None for name, _ in photos(3))
    assert "image" not in found["bad"]
