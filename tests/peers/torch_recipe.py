"""What the three recipes share: torchvision's LR-ASPP in eager float32, as its documentation uses it.

https://pytorch.org/vision/stable/models.html#semantic-segmentation: `model(batch)["out"]`, the label map is its argmax.
"""

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load
from torchvision import transforms
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from pipeline.labels.png import encode_mask
from pipeline.model.weights import TORCHVISION_PRESET
from tests.peers.task import Task, image_id

CLASSES = 21


def torchvision_model() -> torch.nn.Module:
    """torchvision's model in eval mode, with the bundled weights in float32."""
    tensors = load((resources.files("pipeline.model") / "bundled.safetensors").read_bytes())
    model: torch.nn.Module = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    model.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    return model.eval()


def to_tensor() -> transforms.Compose:
    """uint8 (H, W, 3), or a PIL image -> normalised float32 (3, H, W), contiguous."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(TORCHVISION_PRESET.mean, TORCHVISION_PRESET.std)])


class Predictor:
    """Loads the model once; batches in, PNGs out."""

    def __init__(self, task: Task) -> None:
        self._task = task
        if task.threads is not None:
            torch.set_num_threads(task.threads)
        self._model, self._to_tensor = torchvision_model(), to_tensor()

    def masks(self, images_HWC: list[npt.NDArray[np.uint8]], paths: list[str]) -> list[bytes]:
        """Photographs of one size, uint8 (H, W, 3) -> their masks, 8-bit index PNG."""
        for image_HWC, path in zip(images_HWC, paths, strict=True):
            keep_input(self._task, path, image_HWC)
        return self.masks_of_batch(torch.stack([self._to_tensor(np.array(image_HWC)) for image_HWC in images_HWC]))

    @torch.inference_mode()
    def masks_of_batch(self, x_NCHW: torch.Tensor) -> list[bytes]:
        """The same from a batch that is normalised."""
        label_maps = self._model(x_NCHW)["out"].argmax(1).to(torch.uint8).numpy()
        masks = [encode_mask(label_map) for label_map in label_maps]
        self._task.finished(len(masks))
        return masks


def keep_input(task: Task, path: str, image_HWC: npt.NDArray[np.uint8]) -> None:
    """Keep what a recipe feeds the network, where its labels are to be checked on the very same pixels."""
    if task.keep is not None:
        np.save(Path(task.keep) / f"{image_id(path)}.npy", image_HWC)
