"""Who opens `masks/` without help: pyarrow, DuckDB, Polars, Ray Data, Hugging Face datasets, open_run."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.api.opened import open_run
from tests.support.runs import segment, write_tars

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A run of 12 images, with confidence maps."""
    folder = tmp_path_factory.mktemp("readers")
    segment(write_tars(folder / "in", 2, 6), folder / "out", confidence_map=True)
    return folder / "out"


def test_pyarrow(out: Path) -> None:
    import pyarrow.parquet as pq

    assert pq.read_table(out / "masks").num_rows == 12


def test_duckdb(out: Path) -> None:
    import duckdb

    query = f"select sum(c.pixels)::bigint from (select unnest(classes) c from '{out}/masks/*.parquet')"
    areas = f"select sum(width * height)::bigint from '{out}/masks/*.parquet'"
    connection = duckdb.connect()
    assert connection.execute(query).fetchall() == connection.execute(areas).fetchall()


def test_polars(out: Path) -> None:
    import polars as pl

    frame = pl.read_parquet(out / "masks" / "*.parquet")
    assert frame.height == 12
    assert frame["mask"].struct.field("bytes")[0][:4] == b"\x89PNG"


def test_ray_data(out: Path) -> None:
    import ray.data

    assert ray.data.read_parquet(str(out / "masks")).count() == 12


def test_hugging_face_datasets_decodes_the_mask(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset("parquet", data_dir=str(out / "masks"), cache_dir=str(tmp_path), split="train")
    assert len(loaded) == 12
    for column in ("mask", "confidence"):
        assert isinstance(loaded[0][column], Image.Image)
        assert loaded[0][column].size == (loaded[0]["width"], loaded[0]["height"])


def test_open_run(out: Path) -> None:
    run = open_run(str(out))
    assert run.masks.count_rows() == 12
    assert run.failures.count_rows() == 0
    assert run.class_stats.num_rows == 21
    for photograph, mask in run.pairs():
        assert photograph.size == mask.size
        assert (photograph.mode, mask.mode) == ("RGB", "P")
