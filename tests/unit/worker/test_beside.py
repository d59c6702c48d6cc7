"""Some of what else is planned, to be asked whether its store answers."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.output.span import Span
from pipeline.plan import plan
from pipeline.plan.plan import extend_plan
from pipeline.shards.base import SourceKind, SourceObject
from pipeline.storage.local import LocalStore
from pipeline.worker import beside
from pipeline.worker.beside import FOLDERS, SAMPLE, Beside


def _shards(kind: SourceKind, count: int) -> Iterator[SourceObject]:
    return (SourceObject(uri=f"s3://b/{kind}-{number}", kind=kind, size=None, version=None) for number in range(count))


def _span(uri: str, kind: SourceKind, *others: str) -> Span:
    return Span(source=SourceObject(uri=uri, kind=kind, size=None, version=None), digest="d", first=0, stop=None, others=others)


IMAGES, TAR = _span("plan/00000.parquet", "image"), _span("s3://b/tar-0", "tar", "https://h/x?sig=1")


def _plan(tmp_path: Path, images: int, tars: int) -> str:
    made = extend_plan(LocalStore(), str(tmp_path), None, _shards("image", images), {})
    extend_plan(LocalStore(), str(tmp_path), made, _shards("tar", tars), {})
    return str(tmp_path)


def test_single_images_are_from_all_over_the_plan_file(tmp_path: Path) -> None:
    sample = list(Beside(_plan(tmp_path, 1000, 1)).of(IMAGES, "s3://b/image-0"))
    assert len(sample) == len(set(sample)) == SAMPLE
    numbers = sorted(int(uri.removeprefix("s3://b/image-")) for uri in sample)
    assert numbers[-1] - numbers[0] > 800


def test_a_shard_stands_beside_shards(tmp_path: Path) -> None:
    out = _plan(tmp_path, 3, 2)
    assert list(Beside(out).of(TAR, "s3://b/tar-0")) == ["https://h/x?sig=1", "s3://b/tar-0", "s3://b/tar-1"]
    assert list(Beside(out).of(IMAGES, "s3://b/image-0")) == [f"s3://b/image-{number}" for number in range(3)]


def test_a_plan_without_shards_has_none(tmp_path: Path) -> None:
    made = extend_plan(LocalStore(), str(tmp_path), None, _shards("image", 3), {})
    assert made.files
    assert list(Beside(str(tmp_path)).of(TAR, "s3://b/tar-0")) == ["https://h/x?sig=1"]


def _files(folder: Path, kind: SourceKind, suffix: str, count: int) -> list[SourceObject]:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}{suffix}").write_bytes(b"x")
    found = LocalStore().walk(str(folder))
    return [SourceObject(uri=info.uri, kind=kind, size=info.size, version=info.version) for info in found]


def test_of_a_local_file_those_of_its_folder_come_too_as_far_as_they_are_as_planned(tmp_path: Path) -> None:
    out, few, many = tmp_path / "out", tmp_path / "few", tmp_path / "many"
    made = None
    for shards in (
        _files(many, "tar", ".tar", 100),
        _files(few, "tar", ".tar", 3),
        _files(tmp_path / "images", "image", ".jpg", 3),
    ):
        made = extend_plan(LocalStore(), str(out), made, iter(shards), {})
    of = partial(Beside(str(out)).of, _span(str(few / "0.tar"), "tar"))
    first = list(of(str(few / "0.tar")))
    assert len(first) == SAMPLE + 2
    assert all(uri.startswith(str(many)) for uri in first[:SAMPLE])
    assert first[SAMPLE:] == [str(few / "1.tar"), str(few / "2.tar")]
    (few / "1.tar").write_bytes(b"other")
    assert list(of(str(few / "0.tar")))[SAMPLE:] == [str(few / "2.tar")]
    (few / "2.tar").unlink()
    assert list(of(str(few / "0.tar"))) == first[:SAMPLE]


def test_beside_a_local_file_that_is_planned_alone_any_image_or_shard_counts(tmp_path: Path) -> None:
    made = extend_plan(LocalStore(), str(tmp_path / "out"), None, iter(_files(tmp_path / "in", "tar", ".tar", 1)), {})
    assert made.files
    of, alone = Beside(str(tmp_path / "out")).of, str(tmp_path / "in" / "0.tar")
    Path(alone).unlink()
    (tmp_path / "in" / ".NOT_MOUNTED").write_bytes(b"x")
    assert list(of(_span(alone, "tar"), alone)) == []
    (tmp_path / "in" / "other.tar").write_bytes(b"x")
    assert list(of(_span(alone, "tar"), alone)) == [str(tmp_path / "in" / "other.tar")]
    (tmp_path / "x.jpg").write_bytes(b"x")
    shutil.rmtree(tmp_path / "in")  # which may be what is mounted
    assert list(of(_span(alone, "tar"), alone)) == []


def test_a_million_folders_are_not_remembered(tmp_path: Path) -> None:
    made = extend_plan(LocalStore(), str(tmp_path / "out"), None, iter(_files(tmp_path / "0", "image", ".jpg", 3)), {})
    assert made.files
    found = Beside(str(tmp_path / "out"))
    for number in range(3 * FOLDERS):
        list(found.of(IMAGES, f"/folder/{number}/x.jpg"))
    assert len(found._below) <= FOLDERS


def test_a_plan_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, reads = _plan(tmp_path, 3, 2), 0

    def counted(*asked: object) -> Iterator[tuple[int, SourceObject]]:
        nonlocal reads
        reads += 1
        return plan.read_plan_rows(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(beside, "read_plan_rows", counted)
    found = Beside(out)
    assert list(found.of(IMAGES, "s3://b/image-0")) == list(found.of(IMAGES, "s3://b/image-0"))
    assert reads == 1
