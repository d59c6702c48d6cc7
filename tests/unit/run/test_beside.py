"""Some of what else is planned, to be asked whether its store answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.run import beside, plan
from pipeline.run.beside import SAMPLE, Beside
from pipeline.run.plan import extend_plan
from pipeline.run.span import Span
from pipeline.shards.base import Shard, ShardKind
from pipeline.storage.local import LocalStore


def _shards(kind: ShardKind, count: int) -> Iterator[Shard]:
    return (Shard(uri=f"s3://b/{kind}-{number}", kind=kind, size=None, version=None) for number in range(count))


def _span(uri: str, kind: ShardKind, *others: str) -> Span:
    return Span(source=Shard(uri=uri, kind=kind, size=None, version=None), digest="d", first=0, stop=None, others=others)


IMAGES, TAR = _span("plan/00000.parquet", "image"), _span("s3://b/tar-0", "tar", "https://h/x?sig=1")


def _plan(tmp_path: Path, images: int, tars: int) -> str:
    made = extend_plan(LocalStore(), str(tmp_path), None, _shards("image", images), {})
    extend_plan(LocalStore(), str(tmp_path), made, _shards("tar", tars), {})
    return str(tmp_path)


def test_single_images_are_from_all_over_the_plan_file(tmp_path: Path) -> None:
    sample = list(Beside(_plan(tmp_path, 1000, 1)).of(IMAGES))
    assert len(sample) == len(set(sample)) == SAMPLE
    numbers = sorted(int(uri.removeprefix("s3://b/image-")) for uri in sample)
    assert numbers[-1] - numbers[0] > 800


def test_a_shard_stands_beside_shards(tmp_path: Path) -> None:
    out = _plan(tmp_path, 3, 2)
    assert list(Beside(out).of(TAR)) == ["https://h/x?sig=1", "s3://b/tar-0", "s3://b/tar-1"]
    assert list(Beside(out).of(IMAGES)) == [f"s3://b/image-{number}" for number in range(3)]


def test_a_plan_without_shards_has_none(tmp_path: Path) -> None:
    made = extend_plan(LocalStore(), str(tmp_path), None, _shards("image", 3), {})
    assert made.files
    assert list(Beside(str(tmp_path)).of(TAR)) == ["https://h/x?sig=1"]


def test_a_plan_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, reads = _plan(tmp_path, 3, 2), 0

    def counted(*asked: object) -> Iterator[tuple[int, Shard]]:
        nonlocal reads
        reads += 1
        return plan.read_plan_rows(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(beside, "read_plan_rows", counted)
    found = Beside(out)
    assert list(found.of(IMAGES)) == list(found.of(IMAGES))
    assert reads == 1
