"""What `pipeline/model/README.md` says of the bundled weights."""

import hashlib
import re
from pathlib import Path

import pytest

from pipeline import Segmenter
from pipeline.model.weights import BUNDLED, load_weights
from pipeline.model.zoo import DEFAULT_MODEL
from tests.conftest import ROOT
from tests.support.quality import quality_of

README = (ROOT / "pipeline" / "model" / "README.md").read_text()
ROW = re.compile(r"\| (?P<images>\d+) \| (?P<accuracy>[\d.]+) \| (?P<miou>[\d.]+) of (?P<classes>\d+) \| (?P<iou>.*) \|")


def test_it_is_the_file_that_the_readme_describes() -> None:
    data = (ROOT / "pipeline" / "model" / "bundled.safetensors").read_bytes()
    assert f"`{hashlib.sha256(data).hexdigest()}`" in README
    weights = load_weights(BUNDLED, DEFAULT_MODEL)
    assert f"short side {weights.preset.short_side}" in README
    assert weights.classes is not None
    assert len(weights.classes) == 21


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "row"), [("voc_val", "PASCAL VOC 2012 val"), ("coco_sub", "COCO train2017")])
def test_it_is_as_good_as_the_readme_says(shared: Path, folder: str, row: str) -> None:
    """Within what another CPU or OpenVINO may change."""
    found = quality_of(Segmenter(BUNDLED), shared / "data" / folder)
    said = ROW.search(README, README.index(f"| {row} |"))
    assert said is not None
    assert (found.images, len(found.iou)) == (int(said["images"]), int(said["classes"]))
    assert found.pixel_accuracy == pytest.approx(float(said["accuracy"]), abs=0.3)
    assert found.miou == pytest.approx(float(said["miou"]), abs=0.3)
    named = {name.strip("_"): value for name, value in found.iou.items()}
    for text in said["iou"].split(", "):
        name, value = text.rsplit(" ", 1)
        assert named[name] == pytest.approx(float(value), abs=1), name
