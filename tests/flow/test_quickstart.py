"""`make quickstart` as a user runs it: the labels that the bundled weights get right, and the picture of the README."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, Finished

RIGHT = {"chelsea": ("cat", 0.85), "grace_hopper": ("person", 0.5), "astronaut": ("person", 0.35), "flower": ("pottedplant", 0.2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it ran: with `out/`."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "jobs").symlink_to(ROOT / "jobs")
    done = subprocess.run(
        [sys.executable, "-m", "jobs.quickstart"], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "open this   out/quickstart.png" in done.stdout
    return folder


def test_the_picture_of_the_readme_is_what_it_draws(folder: Path) -> None:
    """But for what JPEG and other CPUs change."""
    with Image.open(folder / "out" / "quickstart.png") as drawn, Image.open(ROOT / ".assets" / "quickstart.jpg") as shown:
        assert drawn.size == shown.size
        small = (drawn.width // 4, drawn.height // 4)
        one, other = (np.asarray(picture.convert("RGB").resize(small), np.int16) for picture in (drawn, shown))
    assert np.abs(one - other).mean() < 2
    assert (ROOT / ".assets" / "quickstart.jpg").stat().st_size < 250_000


def test_it_gets_right_what_it_shows(folder: Path, job: Callable[..., Finished], tmp_path: Path) -> None:
    done = job("look", folder / "out" / "quickstart", "--to", tmp_path / "all.jpg", "--json", tmp_path / "all.json")
    assert done.code == 0, done.err
    shown = {row["image_id"]: row for row in json.loads((tmp_path / "all.json").read_text())["shown"]}
    assert len(shown) == 7
    for name, (wanted, least) in RIGHT.items():
        largest = shown[name]["classes"][0]
        assert (largest["name"], largest["fraction"] > least) == (wanted, True), shown[name]
        assert shown[name]["problem"] is None
    assert shown["china"]["classes"][0]["name"] == "boat"  # as its note says


def test_what_it_does_not_know_it_says(folder: Path) -> None:
    from jobs.quickstart import NOTES, SHOWN

    assert set(SHOWN) == set(RIGHT)
    assert "pagoda" in NOTES[0]
