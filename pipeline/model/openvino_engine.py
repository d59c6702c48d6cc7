"""OpenVINO on one core. Never imports torch."""

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino.preprocess import PrePostProcessor

from pipeline.labels.upsample import upsample_labels
from pipeline.model.engine import Prepared

SHAPES_CACHED = 64  # kernels kept for as many input shapes; OpenVINO's own default of 5,000 grows without end
_PRECISION = {"fp32": ov.Type.f32}


class OpenVINOEngine:
    """A compiled IR with dynamic height and width; normalisation is part of the graph."""

    def __init__(self, prepared: Prepared) -> None:
        core = ov.Core()
        model = core.read_model(model=prepared.graph, weights=prepared.tensors)
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_shape([1, -1, -1, 3])
        steps.input().model().set_layout(ov.Layout("NCHW"))
        scaled_mean = [255 * value for value in prepared.preset.mean]
        scaled_std = [255 * value for value in prepared.preset.std]
        steps.input().preprocess().convert_element_type(ov.Type.f32).mean(scaled_mean).scale(scaled_std)
        compiled = core.compile_model(
            steps.build(),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _PRECISION[prepared.precision],  # else bf16 where the CPU has it
                "INFERENCE_NUM_THREADS": 1,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # else all workers of a machine pin to the same core
                "CPU_RUNTIME_CACHE_CAPACITY": SHAPES_CACHED,
            },
        )
        self._request = compiled.create_infer_request()
        self.version = "openvino " + ".".join(ov.__version__.split("-")[0].split(".")[:2])
        self.instruction_set = instruction_set()

    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Engine.logits`. The array is a view that the next call overwrites."""
        output = self._request.infer([image_HWC[np.newaxis]], share_inputs=True, share_outputs=True)
        logits: npt.NDArray[np.float32] = output[0][0]
        return logits

    def labels(
        self, logits_CHW: npt.NDArray[np.float32], height: int, width: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """See `Engine.labels`: one pass in numba."""
        return upsample_labels(logits_CHW, height, width)


def instruction_set() -> str:
    """The widest vector instructions of this CPU that change how sums round: avx512, avx2 or the machine's name."""
    import platform

    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((set(line.split()) for line in file if line.startswith(("flags", "Features"))), set())
    except OSError:
        flags = set()
    found = [name for name in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if name in flags]
    return "+".join(found) or platform.machine()
