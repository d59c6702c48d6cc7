"""`first_part`, small: a real run, Ray alone, a worker alone."""

import json
from pathlib import Path
from statistics import median

import pytest
from click.testing import CliRunner

from jobs.benchmarks.first_part import main


@pytest.mark.slow
def test_the_first_part_takes_longer_than_ray_and_a_worker_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--rounds", "3", "--short-side", "64", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rounds = json.loads((tmp_path / "first-part.json").read_text())["rounds"]
    found = {name: median(each[name] for each in rounds) for name in rounds[0]}
    assert 0 < found["a worker"] < found["first part"]
    assert 1 < found["Ray's own"] < found["first part"]
    assert "first part within 15 s, a worker within 2 s" in done.output
