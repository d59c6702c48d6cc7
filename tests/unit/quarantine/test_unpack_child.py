"""A Parquet shard read in a process of its own: the same rows; what kills that process costs its row group and nothing else."""

from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import Incomplete, ObjectMissing
from pipeline.quarantine import unpack_child as apart
from pipeline.quarantine.unpack_child import read_apart
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
from pipeline.storage import store_for
from tests.conftest import ROOT
from tests.support.children import killed_while_they_load
from tests.support.images import SEED, jpeg
from tests.support.parquets import large_row_parquet, parquet_bytes, parquets
from tests.support.poison.sitecustomize import UNPACKED

TEN = [jpeg(SEED + number) for number in range(10)]


def _shard(file: Path, data: bytes) -> SourceObject:
    file.write_bytes(data)
    return SourceObject(uri=str(file), kind="parquet", size=len(data), version=None)


def _kinds(images: list[EncodedImage]) -> list[str | None]:
    return [None if image.error is None else image.error.kind for image in images]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes that are started here."""
    monkeypatch.setenv("MASKFLEET_TEST_POISON", "1")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "poison"))


@pytest.mark.parametrize("name", ["struct.parquet", "damaged_pages.parquet", "no_rows.parquet", "no_footer.parquet"])
def test_the_rows_are_the_same(tmp_path: Path, name: str) -> None:
    shard = _shard(tmp_path / name, parquets()[name].data)
    for first in (0, 5):
        here = list(read_parquet(store_for(shard.uri), shard, Cursor(first), ReadOptions()))
        apart = list(read_apart(shard, Cursor(first), ReadOptions()))
        assert list(map(repr, apart)) == list(map(repr, here))


def test_a_bomb_costs_its_row_group_from_its_row_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = _shard(tmp_path / "x.parquet", large_row_parquet(256 << 20))
    monkeypatch.setattr(apart, "PAGES_BYTES", 512 << 20)
    found = list(read_apart(shard, Cursor(), ReadOptions(max_encoded_bytes=1 << 20)))
    assert [image.index for image in found] == [0, 1, 2, 3, 4]
    assert _kinds(found) == [None, None, "DamagedRowGroup", None, None]
    assert str(found[2].error) == "row group 0 is damaged: it takes more than 518 MiB of memory"
    whole = list(read_apart(shard, Cursor(2), ReadOptions(max_encoded_bytes=256 << 20)))
    assert _kinds(whole) == [None, None, None]
    assert whole[0].bytes_length == 256 << 20


@pytest.mark.usefixtures("poisoned")
def test_a_row_that_kills_costs_its_row_group_from_there_on(tmp_path: Path) -> None:
    images = [*TEN[:5], TEN[5] + UNPACKED, *TEN[6:]]
    shard = _shard(tmp_path / "x.parquet", parquet_bytes(images))
    found = list(read_apart(shard, Cursor(), ReadOptions()))
    assert [image.index for image in found] == list(range(10))
    assert _kinds(found) == [None] * 5 + ["DamagedRowGroup"] * 3 + [None] * 2
    assert str(found[5].error) == "row group 1 is damaged: it ends the process that unpacks it: SIGSEGV"
    assert [image.index for image in found if image.ends_part] == [3, 7, 9]


def test_a_kill_from_outside_costs_nothing(tmp_path: Path) -> None:
    large = [data + bytes(200_000) for data in TEN]  # more than a pipe holds, so that it waits for us
    shard = _shard(tmp_path / "x.parquet", parquet_bytes(large))
    images = read_apart(shard, Cursor(), ReadOptions())
    found = [next(images)]
    killed = 0
    for row in (1, 2, 5):
        for child in psutil.Process().children():
            if "pipeline.quarantine.unpack_child" in child.cmdline():
                child.kill()
                killed += 1
        found += [next(images) for _ in range(row)]
    found += images
    assert killed == 3
    assert [(image.index, image.data) for image in found] == list(enumerate(large))


def test_who_is_killed_before_it_is_ready_says_nothing_of_the_row_group(tmp_path: Path) -> None:
    """As the kernel does where memory is short."""
    shard = _shard(tmp_path / "x.parquet", parquet_bytes(TEN))
    with (
        killed_while_they_load("pipeline.quarantine.unpack_child") as killed,
        pytest.raises(Incomplete, match=r"no process .* for a Parquet shard .*SIGKILL.*fewer --workers"),
    ):
        list(read_apart(shard, Cursor(), ReadOptions()))
    assert len(killed) == 2
    assert _kinds(list(read_apart(shard, Cursor(), ReadOptions()))) == [None] * 10


def test_errors_of_the_store_are_raised(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "x.parquet", parquet_bytes(TEN))
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(ObjectMissing):
        list(read_apart(shard, Cursor(), ReadOptions()))


def test_closing_early_ends_the_process(tmp_path: Path) -> None:
    images = read_apart(_shard(tmp_path / "x.parquet", parquet_bytes(TEN * 50)), Cursor(), ReadOptions())
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert not [child for child in psutil.Process().children() if "pipeline.quarantine.unpack_child" in child.cmdline()]


def test_any_page_that_parquet_allows_is_within_the_limits(tmp_path: Path) -> None:
    """Also where images are small: a worker that was killed from outside is no reason to fail them."""
    rows = pa.array([bytes(1 << 20)] * 300 + [TEN[0]], pa.binary())
    file = tmp_path / "x.parquet"
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_batch_size": 301, "data_page_size": 1 << 30}
    pq.write_table(pa.table({"image": rows}), file, **options)
    shard = SourceObject(uri=str(file), kind="parquet", size=file.stat().st_size, version=None)
    found = list(read_apart(shard, Cursor(299), ReadOptions(max_encoded_bytes=1 << 20)))
    assert _kinds(found) == [None, None]
    assert found[1].data == TEN[0]
