"""Which rows a sheet shows: compared with all rows of a real run, sorted in memory."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import Damaged, StorageError, UsageError
from pipeline.look.choose import Where, choose
from pipeline.look.part_rows import PartRows, Place
from pipeline.output.parts import list_parts
from pipeline.storage.local import LocalStore
from tests.support.corpus import parquet_bytes, photos, tar_bytes
from tests.support.labelled import label, parts_of
from tests.support.sample import sample

IMAGES, FAILURES = 27, 9
RANDOM = Where()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 images in 15 parts: a tar of which every third image fails, a Parquet file, and single images."""
    folder = tmp_path_factory.mktemp("choose")
    pictures = [*photos(8), *sample(), *photos(8, first=20)]
    (folder / "in").mkdir()
    with_failures = [(name, data if number % 3 else b"no image") for number, (name, data) in enumerate(pictures[:15])]
    (folder / "in" / "a.tar").write_bytes(tar_bytes(with_failures))
    (folder / "in" / "b.parquet").write_bytes(parquet_bytes([data for _, data in pictures[15:20]]))
    for name, data in [*pictures[20:23], ("zz.png", b"no image either")]:
        (folder / "in" / name).write_bytes(data)
    for number in range(3):
        (folder / "in" / f"bad{number}.jpg").write_bytes(b"")
    label([folder / "in"], folder / "out", short_side=96)
    return folder / "out"


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "out"))


def _reader(out: Path) -> PartRows:
    return PartRows(LocalStore(), str(out), confidence_map=False)


def _classes(out: Path) -> list[str]:
    import json

    return list(json.loads((out / "run.json").read_text())["labels"]["classes"])


def _chosen(out: Path, where: Where, images: int, seed: int = 0) -> list[dict[str, Any]]:
    parts = list_parts(LocalStore(), str(out))
    places = choose(parts, _reader(out), where, _classes(out), images, seed)
    rows = _reader(out).rows(places)
    return [rows[place] for place in places]


def _all(out: Path) -> list[dict[str, Any]]:
    return [row for source in ("a.tar", "b.parquet", "plan/") for part in parts_of(out, source) for row in part.rows]


def _key(row: dict[str, Any]) -> tuple[str, int]:
    return row["shard"], row["index"]


def _share(row: dict[str, Any], name: str) -> float:
    return next((float(entry["fraction"]) for entry in row["classes"] if entry["name"] == name), 0.0)


@pytest.mark.parametrize("images", [1, 4, 100])
def test_the_least_confident(labelled: Path, images: int) -> None:
    wanted = sorted(row["mean_confidence"] for row in _all(labelled))[:images]
    assert [row["mean_confidence"] for row in _chosen(labelled, Where.parse("least-confident"), images)] == wanted
    assert len(set(wanted)) > 1 or images == 1


def test_most_of_a_class_first(labelled: Path) -> None:
    rows = _all(labelled)
    counted = Counter(entry["name"] for row in rows for entry in row["classes"])
    name = next(name for name, count in counted.most_common() if count < len(rows))  # some have it, some do not
    found = _chosen(labelled, Where.parse(f"class={name}"), 100)
    assert len(found) == counted[name]
    shares = [_share(row, name) for row in found]
    assert shares == sorted(shares, reverse=True)
    assert min(shares) > 0
    assert [_key(row) for row in _chosen(labelled, Where("class", (name,)), 1)] == [_key(found[0])]


def test_by_name_in_the_order_of_the_names(labelled: Path) -> None:
    names = [row["image_id"] for row in _all(labelled)][::-5]
    assert [row["image_id"] for row in _chosen(labelled, Where("id", tuple(names)), 100)] == names
    assert _chosen(labelled, Where.parse("id=absent"), 100) == []


def test_an_unknown_class_names_the_known_ones(labelled: Path) -> None:
    with pytest.raises(UsageError, match=r"--where class=unicorn: not a class of this run, whose classes are .*cat"):
        _chosen(labelled, Where.parse("class=unicorn"), 3)


@pytest.mark.parametrize("text", ["", "random=3", "most-confident", "class", "class=", "id=", "least-confident=cat"])
def test_what_where_is_not(text: str) -> None:
    with pytest.raises(UsageError, match="not one of random, least-confident, class=NAME, id=IMAGE_ID"):
        Where.parse(text)


@pytest.mark.parametrize("text", ["random", "least-confident", "class=dining table", "id=a=b"])
def test_where_is_what_was_written(text: str) -> None:
    assert str(Where.parse(text)) == text


def test_at_random_all_rows_are_there_once(labelled: Path) -> None:
    found = [_key(row) for row in _chosen(labelled, RANDOM, 100)]
    assert sorted(found) == sorted(map(_key, _all(labelled)))
    assert len(found) == len(set(found)) == IMAGES - FAILURES


def test_a_seed_repeats_its_choice(labelled: Path) -> None:
    choices = [[_key(row) for row in _chosen(labelled, RANDOM, 3, seed)] for seed in (0, 0, 1, 2, 3)]
    assert choices[0] == choices[1]
    assert len({tuple(choice) for choice in choices}) > 2


def test_at_random_each_row_is_as_likely_as_any_other(labelled: Path) -> None:
    """18 rows, 900 draws: 50 each. Chi-square of 17 degrees of freedom is below 40.8 in 999 of 1,000 cases; seeds repeat."""
    parts, reader = list_parts(LocalStore(), str(labelled)), _reader(labelled)
    counted = Counter(place for seed in range(900) for place in choose(parts, reader, RANDOM, (), 1, seed))
    assert len(counted) == IMAGES - FAILURES
    assert sum((count - 50) ** 2 / 50 for count in counted.values()) < 40.8


def test_a_null_is_never_the_least_confident(out: Path) -> None:
    """As a tool that knows no confidence leaves it."""
    part = parts_of(out, "b.parquet")[0]
    part.write([row | {"mean_confidence": None} for row in part.rows])
    found = _chosen(out, Where.parse("least-confident"), 100)
    assert len(found) == IMAGES - FAILURES - len(part.rows)
    assert None not in [row["mean_confidence"] for row in found]


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes of each local file, as they are read."""
    counted: Counter[str] = Counter()
    read = LocalStore.read

    def counting(self: LocalStore, uri: str, *place: Any, **more: Any) -> bytes:
        data = read(self, uri, *place, **more)
        counted[uri] += len(data)
        return data

    monkeypatch.setattr(LocalStore, "read", counting)
    return counted


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight parts of four photographs with confidence maps of noise: about a megabyte each."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "a.tar").write_bytes(tar_bytes(photos(8)))
    label([folder / "a.tar"], folder / "out", part_images=1, confidence_map=True)
    noise = np.random.default_rng(0).bytes(1 << 20)
    for part in parts_of(folder / "out", "a.tar"):
        part.write([row | {"confidence": {"bytes": noise, "path": None}} for row in part.rows])
    return folder / "out"


@pytest.mark.parametrize("where", ["least-confident", "id=0003"])
def test_of_rows_that_are_not_chosen_one_column_is_read(large: Path, where: str, read_bytes: Counter[str]) -> None:
    parts, reader = list_parts(LocalStore(), str(large)), PartRows(LocalStore(), str(large), confidence_map=True)
    (place,) = choose(parts, reader, Where.parse(where), (), 1, 0)
    assert read_bytes.total() < 8 * (200 << 10)  # two reads of 64 KiB a part, and the end of one
    assert len([uri for uri in read_bytes if "/masks/" in uri]) == 8
    read_bytes.clear()
    assert set(reader.rows([place])) == {place}
    assert [Path(uri).name for uri in read_bytes] == [str(place.part)]


def test_a_choice_at_random_opens_no_other_part(large: Path, read_bytes: Counter[str]) -> None:
    parts, reader = list_parts(LocalStore(), str(large)), PartRows(LocalStore(), str(large), confidence_map=True)
    (place,) = choose(parts, reader, RANDOM, (), 1, 7)
    assert [Path(uri).name for uri in read_bytes] == [str(place.part)]
    assert read_bytes.total() < 100 << 10


def test_rows_lie_where_they_are_said_to(labelled: Path) -> None:
    """Also in a file of several row groups, and behind the first batch."""
    for part in parts_of(labelled, "a.tar"):
        name = next(name for name in list_parts(LocalStore(), str(labelled)).parts() if str(name) == part.file.name)
        assert _reader(labelled).count(name) == len(part.rows)
        found = _reader(labelled).rows([Place(name, row) for row in range(len(part.rows))])
        assert [row["image_id"] for row in found.values()] == [row["image_id"] for row in part.rows]


@pytest.mark.parametrize("where", ["random", "least-confident", "class=cat"])
def test_a_part_that_cannot_be_read_is_damage(out: Path, where: str) -> None:
    for file in (out / "masks").iterdir():
        data = bytearray(file.read_bytes())
        data[-200:] = bytes(200)
        file.write_bytes(data)
    with pytest.raises(Damaged, match=r"masks/\S+\.parquet cannot be read .*: `verify "):
        _chosen(out, Where.parse(where), 100)


def test_a_part_that_is_gone_is_no_damage(out: Path) -> None:
    parts = list_parts(LocalStore(), str(out))
    shutil.rmtree(out / "masks")
    with pytest.raises(StorageError):
        choose(parts, _reader(out), Where.parse("least-confident"), (), 3, 0)
