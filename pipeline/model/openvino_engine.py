"""OpenVINO on one core. Never imports torch."""

from functools import cache

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino.preprocess import PrePostProcessor

from pipeline.errors import UsageError
from pipeline.model.cpu import cpu_name, instruction_set, require_precision
from pipeline.model.engine import Prepared

# Kernels that are kept for known input shapes: enough for about 150 shapes, 0.5 GB. If shapes alternate and kernels are made
# anew, this takes a third of the network's time in bf16, and a tenth in float32.
KERNELS_KEPT = 2_500
_UNTOUCHED = np.float32(-1.25e33)  # never a logit: marks the output before each call
_PRECISION = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}


@cache
def _core() -> ov.Core:
    """The only Core of the process, which is never freed.

    A Core installs an alternate stack for signals, and on its end puts back the stack from before. If the older of two Cores
    ended first, the next signal with a handler in Python (Ctrl-C) met a stack that no longer existed: SIGSEGV.
    """
    return ov.Core()


class OpenVINOEngine:
    """A compiled IR with dynamic height and width. The graph includes the normalisation."""

    own_labels = False

    def __init__(self, prepared: Prepared) -> None:
        require_precision(prepared.precision)
        core = _core()
        model = core.read_model(model=prepared.graph, weights=prepared.tensors)
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_shape([1, -1, -1, 3])
        steps.input().model().set_layout(ov.Layout("NCHW"))
        scaled_mean = [255 * value for value in prepared.preset.mean]
        scaled_std = [255 * value for value in prepared.preset.std]
        steps.input().preprocess().convert_element_type(ov.Type.f32).mean(scaled_mean).scale(scaled_std)
        compiled = compile_at(core, steps.build(), prepared.precision)
        self._request = compiled.create_infer_request()
        self.version = "openvino " + ".".join(ov.__version__.split("-")[0].split(".")[:2])
        self.instruction_set = instruction_set()

    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Engine.logits`. The array is a view that the next call overwrites.

        Raises `MemoryError` if OpenVINO wrote no logits: if it gets no memory, it may return without an error, and the output
        still holds the logits of the image before. At times OpenVINO then damages the heap too ("corrupted double-linked
        list", at the end of the process or before).
        """
        before = self._request.get_output_tensor().data
        if before.size:
            before.flat[0] = _UNTOUCHED
        output = self._request.infer([image_HWC[np.newaxis]], share_inputs=True, share_outputs=True)
        logits: npt.NDArray[np.float32] = output[0][0]
        if not logits.size or logits.flat[0] == _UNTOUCHED:
            raise MemoryError("OpenVINO made no logits")
        return logits


def compile_at(core: ov.Core, model: ov.Model, precision: str) -> ov.CompiledModel:
    """Compile for one core at this precision. Raises `UsageError` if OpenVINO would take another precision instead."""
    wanted = _PRECISION[precision]
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": wanted,  # else bf16 if the CPU has it
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else all workers of a machine pin to the same core
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
        },
    )
    able = precision == "fp32" or precision.upper() in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    got = compiled.get_property("INFERENCE_PRECISION_HINT")
    if not able or got != wanted:
        raise UsageError(f"--precision {precision}: OpenVINO has no {precision} on this CPU ({cpu_name()}); use fp32")
    return compiled
