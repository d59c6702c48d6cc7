"""Ratios, rounds, and the names of results."""

import re
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from tests.benchmarks import common
from tests.benchmarks.common import ROOT, Grid, Report, interleaved, publish, ratio, result_stem


def test_each_second_round_goes_backwards() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = list(interleaved({name: lambda name=name: run(name) for name in "abc"}, 2))  # type: ignore[misc]
    assert "".join(order) == "abccba"
    assert found == [{"a": 1, "b": 2, "c": 3}, {"a": 6, "b": 5, "c": 4}]


def test_a_ratio_is_the_median_of_pairs_within_its_interval() -> None:
    rounds = [{"new": 2.0 * slow, "old": slow} for slow in (1.0, 5.0, 9.0)] + [{"new": 3.0, "old": 1.0}]
    found = ratio(rounds, "new", "old")
    assert (found.median, found.pairs) == (2.0, 4)
    assert found.low == 2.0 <= found.median <= found.high == 3.0
    assert str(ratio(rounds[:3], "old", "new")) == "0.500 (0.500-0.500)"


def test_a_result_is_named_by_benchmark_processor_date_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(common, "cpu_name", lambda: "Intel(R) Xeon(R) Processor")
    monkeypatch.setattr(common, "instruction_set", lambda: "amx_tile+avx512_bf16+avx2")
    found = result_stem("pipeline").removesuffix("-changed")
    assert re.fullmatch(rf"pipeline_intel-xeon-amx-tile_20\d\d-\d\d-\d\d_{commit or 'unknown'}", found)


def test_committed_results_are_named_so_too() -> None:
    results = [path.name for path in (ROOT / "tests/benchmarks/results").iterdir()]
    assert len(results) > 10
    assert [
        name for name in results if not re.fullmatch(r"[a-z-]+_[a-z0-9-]+_20\d\d-\d\d-\d\d_[0-9a-f]{7}\.(md|svg)", name)
    ] == []


def test_a_result_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = Grid(("network", "images/s"), [("large", "5.5"), ("small one", "10")])
    report = Report(name="models", title="Networks", grids=[grid], notes=["a note"], values={"rounds": 5})
    publish(report, str(tmp_path))
    (text,), (values,) = tmp_path.glob("models_*.md"), tmp_path.glob("models_*.json")
    assert text.read_text() in capsys.readouterr().out
    assert "| network   | images/s |\n| --------- | -------- |\n| large     | 5.5      |\n" in text.read_text()
    assert '"rounds": 5' in values.read_text()
    with pytest.raises(UsageError, match="--out"):
        publish(report, str(text))
