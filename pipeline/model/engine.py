"""What an engine is. `torch` is the reference engine, `openvino` the fast one."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.image.resize import Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A network ready to be sent to workers: everything about it that decides the labels, and the bytes to run it.

    graph, tensors: OpenVINO's IR (.xml, .bin). For torch, `graph` is empty and `tensors` is a safetensors file.
    """

    model: str
    engine: str
    precision: str
    weights: str
    weights_sha256: str
    classes: tuple[str, ...]
    preset: Preset
    graph: bytes
    tensors: bytes


class Engine(Protocol):
    """Runs a network on one thread. `version` and `instruction_set` are recorded in every part.

    own_labels: its own framework makes labels from its logits, as the reference. If False, our machine code makes them.
    """

    own_labels: bool
    version: str
    instruction_set: str

    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Resized RGB image -> logits (C, h, w) at the stride of the network, 8 or 16. May raise `MemoryError`."""
        ...
