"""`models`, small: torch as written finds our labels, and what is measured is sane."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.bench import photographs
from jobs.bench_models import prepared, weights_of
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model.cpu import has_bf16
from pipeline.model.loading import load_engine
from tests.benchmarks.engines import CHANNELS_LAST, EAGER, as_written
from tests.conftest import ROOT

SMALL = "lraspp_mobilenet_v3_small"


def test_torch_as_written_finds_the_labels_that_the_engines_find() -> None:
    image = decode(photographs()[0][1], max_source_pixels=1 << 30).image
    pixels_HWC = resize(image, 128, max_pixels=1 << 30)
    tensors = weights_of(SMALL)
    written = as_written(SMALL, tensors, pixels_HWC, channels_last=True)(2).numpy()
    reference = load_engine(prepared(SMALL, "torch", tensors))
    found = labels_of(reference, reference.logits(pixels_HWC), *pixels_HWC.shape[:2]).mask
    assert written.shape == (2, *pixels_HWC.shape[:2])
    assert len(np.unique(found)) > 1
    assert (written == found).mean() > 0.9999


@pytest.mark.slow
def test_it_measures_the_ways_to_a_label_map_and_the_network_asked_for(tmp_path: Path) -> None:
    arguments = ["--model", SMALL, "--short-side", "64", "--rounds", "2", "--stretch-s", "0.02", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "models", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("models_*.json")
    found = json.loads(file.read_text())
    ways = {EAGER, CHANNELS_LAST, "maskfleet fp32"} | ({"maskfleet bf16"} if has_bf16() else set())
    assert [values.keys() for values in found["seconds_per_image"]] == [ways] * 2
    assert all(0 < seconds < 1 for values in found["seconds_per_image"] for seconds in values.values())
    assert min(found["size"]) == 64
    (network,) = found["networks"]
    assert (network["name"], network["parameters"]) == (SMALL, 1_077_954)
    assert file.with_suffix(".md").read_text() in done.stdout
