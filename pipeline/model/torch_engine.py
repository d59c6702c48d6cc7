"""torch on one thread: the reference that the other engines are measured against."""

import platform

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load
from torch.nn import functional as F

from pipeline.model.engine import Prepared
from pipeline.model.zoo import build


class TorchEngine:
    """torchvision's own modules in float32; labels by `F.interpolate`, `argmax` and `softmax`."""

    def __init__(self, prepared: Prepared) -> None:
        torch.set_num_threads(1)
        self._network = build(prepared.model, load(prepared.tensors))
        self._mean = torch.tensor(prepared.preset.mean).view(3, 1, 1)
        self._std = torch.tensor(prepared.preset.std).view(3, 1, 1)
        self.version = "torch " + ".".join(torch.__version__.split(".")[:2])
        self.instruction_set = f"{torch.backends.cpu.get_cpu_capability().lower()} {platform.machine()}"

    @torch.inference_mode()
    def logits(self, image_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Engine.logits`."""
        x_CHW = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        x_CHW = x_CHW.sub_(self._mean).div_(self._std)
        logits: npt.NDArray[np.float32] = self._network(x_CHW.unsqueeze(0))[0].numpy()
        return logits

    @torch.inference_mode()
    def labels(
        self, logits_CHW: npt.NDArray[np.float32], height: int, width: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """See `Engine.labels`; takes C x H x W floats of memory, as torchvision does."""
        full_CHW = F.interpolate(
            torch.from_numpy(logits_CHW).unsqueeze(0), size=(height, width), mode="bilinear", align_corners=False
        )[0]
        label_map = full_CHW.argmax(0).to(torch.uint8).numpy()
        confidence = full_CHW.softmax(0).amax(0).mul_(255).round_().to(torch.uint8).numpy()
        return label_map, confidence
