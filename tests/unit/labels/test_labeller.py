import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.errors import InferenceFailed
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest, prepare
from tests.conftest import ROOT
from tests.support.images import jpeg

BUNDLED = ROOT / "pipeline" / "model" / "bundled.safetensors"

_WARM = """
from numba.core.dispatcher import Dispatcher
import numpy as np
from PIL import Image
from pipeline.labels import fast
from pipeline.labels.labeller import load_machine_code
from pipeline.labels.upsample import upsample_labels
from pipeline.model import resample
from pipeline.model.preprocess import resize
def loaded():
    found = (vars(module).items() for module in (fast, resample))
    return {name: len(each.signatures) for items in found for name, each in items if isinstance(each, Dispatcher)}
load_machine_code()
before = loaded()
resize(Image.new("RGB", (50, 37)), 16, max_pixels=1000)
upsample_labels(np.random.default_rng(0).normal(size=(21, 4, 5)).astype(np.float32), 37, 50, 0.5)
assert before["_across"] == before["_down"] == 1 and loaded() == before, (before, loaded())
"""


def test_what_is_loaded_first_is_all_that_an_image_needs() -> None:
    subprocess.run([sys.executable, "-c", _WARM], check=True)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_no_labels(tmp_path: Path, engine: str, value: float) -> None:
    """As an overflow leaves them, or a damaged checkpoint: their argmax is class 0, at any confidence."""
    tensors = load_file(BUNDLED)
    tensors["classifier.high_classifier.bias"][3] = value
    save_file(tensors, tmp_path / "broken.safetensors")
    request = NetworkRequest(
        model="lraspp_mobilenet_v3_large", weights=str(tmp_path / "broken.safetensors"), engine=engine, short_side=32
    )
    network = prepare(request)
    labeller = Labeller(load_engine(network), LabelOptions(classes=network.classes, preset=network.preset))
    with pytest.raises(InferenceFailed, match="not finite"):
        labeller.label(labeller.read(jpeg()))
