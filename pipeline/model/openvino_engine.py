"""OpenVINO on one core. Never imports torch."""

from functools import cache

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino.preprocess import PrePostProcessor

from pipeline.errors import UsageError
from pipeline.model.cpu import cpu_name, instruction_set, require_precision
from pipeline.model.engine import Prepared

# Kernels that are kept for input shapes met before: those of about 150 shapes, 0.5 GB. Making them anew where shapes alternate
# took a third of the network's time in bf16, a tenth in float32.
KERNELS_KEPT = 2_500
_UNTOUCHED = np.float32(-1.25e33)  # no logit: what stands where the next ones go
_PRECISION = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}


@cache
def _core() -> ov.Core:
    """One for the process, and never given back: a Core brings an alternate stack for signals, and puts back the one before it.

    If the older one of two went first, the next signal with a handler in Python (Ctrl-C) met a stack that was no more: SIGSEGV.
    """
    return ov.Core()


class OpenVINOEngine:
    """A compiled IR with dynamic height and width; normalisation is part of the graph."""

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

        Raises `MemoryError` if OpenVINO gave up: where it gets no memory it returns, and leaves the logits of the image before.
        At times it then damages the heap, too ("corrupted double-linked list", at the end of the process or before).
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
    """Compile for one core at this precision. Raises `UsageError` where OpenVINO would take another one instead."""
    wanted = _PRECISION[precision]
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": wanted,  # else bf16 where the CPU has it
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
