"""A precision that a CPU lacks: one line and exit code 2, from the driver where Ray is its own, else from the workers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.model.cpu import cpu_name, has_bf16
from tests.conftest import Finished
from tests.support.runs import part_files, segment, write_tars

pytestmark = pytest.mark.skipif(has_bf16(), reason=f"{cpu_name()} has bf16 instructions")
LINE = "has no bf16 instructions; use fp32 or machines with avx512_bf16/amx_bf16"


def test_on_ones_own_ray_it_is_refused_before_there_is_a_plan(job: Callable[..., Finished], tmp_path: Path) -> None:
    source = write_tars(tmp_path / "in", 1, 4)
    done = job("segment", "--input", source, "--output", tmp_path / "out", "--weights", "bundled", "--precision", "bf16")
    assert done.code == 2
    assert done.err.strip() == f"maskfleet: --precision bf16: this CPU ({cpu_name()}) {LINE}"
    assert not (tmp_path / "out" / "plan").exists()


def test_on_a_cluster_the_workers_refuse_and_nobody_tries_again(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")  # to the driver this is a cluster that it joins: only workers know their CPUs
    outcome = segment(write_tars(tmp_path / "in", 3, 4), tmp_path / "out", precision="bf16")
    assert isinstance(outcome.error, UsageError)
    assert LINE in str(outcome.error)
    assert outcome.error.exit_code == 2
    assert outcome.run["counts"]["inferred"] == 0
    assert outcome.run["labels"]["precision"] == "bf16"
    assert part_files(tmp_path / "out") == {}
