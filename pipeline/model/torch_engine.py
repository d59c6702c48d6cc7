"""torch on one thread: the reference to which other engines are compared."""

import platform

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load
from torch.nn import functional as F

from pipeline.model.cpu import require_precision
from pipeline.model.engine import Prepared
from pipeline.model.zoo import build


class TorchEngine:
    """torchvision's own modules. Labels are made by `F.interpolate`, `argmax` and `softmax` in float32.

    bf16 means torch's autocast: convolutions in bfloat16, weights kept in float32.
    """

    own_labels = True

    def __init__(self, prepared: Prepared) -> None:
        require_precision(prepared.precision)
        torch.set_num_threads(1)
        self._network, self._precision = build(prepared.model, load(prepared.tensors)), prepared.precision
        self._mean = torch.tensor(prepared.preset.mean).view(3, 1, 1)
        self._std = torch.tensor(prepared.preset.std).view(3, 1, 1)
        self.version = "torch " + ".".join(torch.__version__.split(".")[:2])
        self.instruction_set = f"{torch.backends.cpu.get_cpu_capability().lower()} {platform.machine()}"

    @torch.inference_mode()
    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Engine.logits`."""
        x_CHW = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        x_CHW = x_CHW.sub_(self._mean).div_(self._std)
        logits: npt.NDArray[np.float32] = forward(self._network, x_CHW.unsqueeze(0), self._precision)[0].numpy()
        return logits


@torch.inference_mode()
def label_map_of(
    logits_CHW: npt.NDArray[np.float32], height: int, width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Logits, float32 (C, h, w), resized bilinearly -> label map and confidence, both uint8 (height, width).

    The confidence is 255 times the largest softmax, rounded. Takes C x height x width floats of memory, as torchvision does.
    """
    full_CHW = F.interpolate(
        torch.from_numpy(logits_CHW).unsqueeze(0), size=(height, width), mode="bilinear", align_corners=False
    )[0]
    label_map = full_CHW.argmax(0).to(torch.uint8).numpy()
    return label_map, full_CHW.softmax(0).amax(0).mul_(255).round_().to(torch.uint8).numpy()


def forward(network: torch.nn.Module, x_NCHW: torch.Tensor, precision: str) -> torch.Tensor:
    """Normalised float32 images (N, 3, H, W) -> float32 logits (N, C, h, w), computed at this precision.

    bf16 is emulated if the CPU lacks it.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        logits: torch.Tensor = network(x_NCHW)
    return logits.float()
