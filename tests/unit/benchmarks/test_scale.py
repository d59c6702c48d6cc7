"""`scale`, small: shards and parts that are made up, planned for real; tables of runs of known speed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ObjectChanged, ObjectMissing
from pipeline.output.footer import read_footer
from pipeline.output.parts import list_parts
from pipeline.storage.s3 import S3Store
from pipeline.sums.derived import read_totals
from pipeline.sums.totals import Totals
from tests.benchmarks import scale
from tests.benchmarks.generated import many_parts, plan_shards
from tests.benchmarks.runs import Ran, Stamp, Watch
from tests.conftest import ROOT
from tests.support.generated_parts import PARTS_A_SHARD, GeneratedParts
from tests.support.generated_s3 import BUCKET, OUT, PREFIX, Bucket, generated_s3
from tests.support.runs import parts_in


def run_of(images: int, ms: float, *, parts: int = 10, start_s: float = 10.0) -> Ran:
    """Two workers that take `ms` per image; the second ends a part later, and memory grows by a MiB per second."""
    each = images // parts // 2
    stamps = {
        worker: [Stamp(unix_s=start_s + worker + number * each * ms / 1000, images=each, cpu_s=0.0) for number in range(parts)]
        for worker in (0, 1)
    }
    seconds = start_s + 1 + images * ms / 2000
    watch = Watch(1, "driver")
    names = ("driver", "1", "0", "77")  # the last is a process that never labelled
    watch.memory = [(float(at), name, 100.0 + at) for at in range(round(seconds)) for name in names]
    return Ran(began=0.0, seconds=seconds, stamps=stamps, watch=watch)


def test_shards_are_planned_until_a_worker_asks_for_the_first(tmp_path: Path) -> None:
    found = plan_shards(2500, tmp_path)
    assert (found["shards"], found["plan_files"]) == (2500, 1)
    assert found["plan_bytes"] > 2500 * 10
    assert 0 < found["planned_s"] < 10
    assert 0 < found["dispatched_s"] < 60
    assert 50 < found["planned_peak_mib"] <= found["dispatched_peak_mib"] < 600
    first = parts_in(tmp_path / "planned")[0]
    assert (first.rows, first.last) == (1, True)  # a shard that is gone is one failure
    rows = [list(row) for row in scale.planned_grid(found).rows]
    assert [row[0] for row in rows] == ["listed and planned", "from there to the first dispatched shard"]


def test_pages_follow_each_other_and_end() -> None:
    bucket = Bucket(1500)
    first, last = bucket.list(PREFIX, 0), bucket.list(PREFIX, 1000)
    assert first.count("<Contents>") == 1000
    assert "<NextContinuationToken>1000<" in first
    assert last.count("<Contents>") == 500
    assert "<IsTruncated>false<" in last


def test_footers_of_generated_parts_come_to_the_generated_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, out = (
        GeneratedParts(2 * PARTS_A_SHARD + 7, BUCKET, PREFIX, "f" * 64, ("background", "cat")),
        f"s3://{BUCKET}/{OUT[:-1]}",
    )
    with generated_s3(parts.shards, tmp_path, parts) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = S3Store()
        listed = list_parts(store, out)
        totals = read_totals(store, out, listed, Totals(parts.classes), "f" * 64)
        first = read_totals(store, out, listed.only(np.arange(listed.part_count) < 30), Totals(parts.classes), "f" * 64)
        part = next(listed.parts())
        with pytest.raises(ObjectChanged):
            read_footer(store, out, replace(part, version="etag:0"))
        with pytest.raises(ObjectMissing):
            read_footer(store, out, replace(part, first=1))
    assert list(listed.parts()) == [parts.part(place) for place in range(parts.count)]
    assert [name.last for name in listed.parts()].count(True) == len(listed) == 3
    assert totals.same_sums(parts.totals(parts.count))
    assert totals.is_exactly(parts.totals(parts.count).parts.arrays()[0])
    assert first.same_sums(parts.totals(30))


def test_an_output_of_many_parts_is_planned_resumed_closed_and_run_again(tmp_path: Path) -> None:
    found = many_parts(2500, tmp_path)
    assert (found["parts"], found["shards"], found["new"]) == (2500, 63, 25)
    first, again = found["first"]["requests"], found["again"]["requests"]
    assert first["GET, footers"] == 25
    assert found["again"]["counts"] == {
        "images": 2500 * 256, "masks": 2500 * 256 - 125, "failures": 125, "broken_shards": 0,
        "inferred": 0, "skipped": 2500 * 256,
    }  # fmt: skip
    assert again.keys() == {"LIST", "LIST, parts", "GET", "HEAD"}  # nothing is written, and no part is read
    assert again["LIST"] == 1
    assert again["LIST, parts"] <= 1 + 16  # the parts, once
    rows = [list(row) for row in scale.parts_grid(found).rows]
    assert [row[0] for row in rows][::3] == ["25 footers to read", "again, nothing new"]
    assert rows[0][3:6] == [str(first["LIST"]), str(first["LIST, parts"]), "25"]


def test_a_listing_by_digits_has_every_generated_part_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = GeneratedParts(60 * PARTS_A_SHARD, BUCKET, PREFIX, "f" * 64, ("background",))
    with generated_s3(parts.shards, tmp_path, parts) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        listed = list_parts(S3Store(), f"s3://{BUCKET}/{OUT[:-1]}")
    assert list(listed.parts()) == [parts.part(place) for place in range(parts.count)]


def test_growth_compares_a_hundredfold_with_tenfold() -> None:
    runs = [run_of(100, 50.0), run_of(1000, 40.0), run_of(1000, 42.0), run_of(10_000, 45.1)]
    assert scale.growth(runs) == pytest.approx(0.1)
    short = run_of(2, 50.0, parts=1)
    assert scale.growth([short, short, short, short]) is None
    rows = [list(row) for row in scale.growth_grid(runs).rows]
    assert rows[-1][0:2] == ["10,000", "200"]
    assert float(rows[-1][-1]) == pytest.approx(45.1)
    assert rows[0][-1] == "50.00"


def test_memory_is_read_at_a_minute_and_at_the_last_part() -> None:
    run = run_of(10_000, 40.0)
    assert scale.memory_of(run)["worker 1"][5] == (5.0, 105.0)
    rows = {row[0]: row[1:] for row in scale.memory_grid(run).rows}
    assert rows.keys() == {"driver", "worker 1", "worker 2"}
    assert rows["driver"] == ["160", f"{100 + round(run.last_part_s):.0f}", f"{100 + round(run.seconds) - 1}"]


@pytest.mark.slow
def test_all_of_it_small(tmp_path: Path) -> None:
    sizes = {"--shards": 2000, "--parts": 2000, "--images": 3000, "--pairs": 1, "--short-side": 64, "--out": tmp_path}
    flags = [str(text) for pair in sizes.items() for text in pair]
    command = [sys.executable, "-m", "tests.benchmarks", "scale", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("scale_*.json")
    values = json.loads(file.read_text())
    assert [images for images, *_ in values["growth"]] == [30, 300, 300, 3000]
    assert (values["planned"]["shards"], values["parts"]["parts"]) == (2000, 2000)
    assert values["memory"].keys() == {"driver", "worker 1", "worker 2"}
    assert list(values["pairs"][0]) == ["one", "two"]
    assert "| efficiency " in file.with_suffix(".md").read_text()
