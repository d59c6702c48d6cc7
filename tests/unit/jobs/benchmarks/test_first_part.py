"""`first_part`, small: a real run, Ray alone, a worker alone."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.benchmarks.first_part import main


@pytest.mark.slow
def test_each_is_timed(tmp_path: Path) -> None:
    """How they compare is for a machine on which nothing else runs."""
    done = CliRunner().invoke(main, ["--rounds", "1", "--short-side", "64", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "first-part.json").read_text())["rounds"]
    assert set(found) == {"first part", "Ray's own", "a worker"}
    assert all(0 < seconds < 300 for seconds in found.values())
    assert "first part within 15 s, a worker within 2 s" in done.output
