import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import load_file, save_file

from pipeline.errors import InferenceFailed
from pipeline.image.resize import Preset
from pipeline.labels.labeller import Labeller, LabelOptions, Resized
from pipeline.labels.prepare import prepare
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest
from tests.conftest import ROOT
from tests.support.images import jpeg

BUNDLED = ROOT / "pipeline" / "model" / "bundled.safetensors"

_WARM = """
from numba.core.dispatcher import Dispatcher
import numpy as np
from PIL import Image
from pipeline.labels import kernel as fast
from pipeline.labels.labeller import load_machine_code
from pipeline.labels.upsample import upsample_labels
from pipeline.image import resample
from pipeline.image.resize import resize
def loaded():
    found = (vars(module).items() for module in (fast, resample))
    return {name: len(each.signatures) for items in found for name, each in items if isinstance(each, Dispatcher)}
load_machine_code()
before = loaded()
resize(Image.new("RGB", (50, 37)), 16, max_pixels=1000)
upsample_labels(np.random.default_rng(0).normal(size=(21, 4, 5)).astype(np.float32), 37, 50, 0.5)
assert before["_resample_x"] == before["_resample_y"] == 1 and loaded() == before, (before, loaded())
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


class _Failing:
    """An engine that raises."""

    own_labels = False
    version = instruction_set = ""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        del image_HWC
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 300 MiB"),
        RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223:\nstd::bad_alloc\n"),
        RuntimeError("Exception from src/plugins/intel_cpu/src/cpu_memory.cpp:62:\nFailed to allocate 123456 bytes of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
    ],
)
def test_memory_that_runs_out_says_nothing_of_the_image(error: Exception) -> None:
    """It may be the node's, and gone in a moment: whoever calls knows if nothing else was in memory."""
    labeller = Labeller(_Failing(error), LabelOptions(classes=("a",), preset=Preset(520, (0.0,) * 3, (1.0,) * 3)))
    with pytest.raises(MemoryError):
        labeller.label(Resized(np.zeros((4, 4, 3), np.uint8), 640, 480, 1))


def test_what_else_the_network_raises_is_a_failure_of_the_image() -> None:
    error = RuntimeError("Shapes are not compatible")
    labeller = Labeller(_Failing(error), LabelOptions(classes=("a",), preset=Preset(520, (0.0,) * 3, (1.0,) * 3)))
    with pytest.raises(InferenceFailed, match="not compatible"):
        labeller.label(Resized(np.zeros((4, 4, 3), np.uint8), 640, 480, 1))
