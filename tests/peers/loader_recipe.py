"""The recipe of PyTorch: a Dataset of image files, a DataLoader, a loop.

https://pytorch.org/tutorials/beginner/basics/data_tutorial.html ("Creating a Custom Dataset for your files", "Preparing your
data for training with DataLoaders") and https://pytorch.org/docs/stable/data.html (`num_workers`). The loop writes PNGs.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tests.peers.task import Task, image_id
from tests.peers.torch_recipe import Predictor, keep_input, to_tensor


class ImageFiles(Dataset[tuple[torch.Tensor, str]]):
    """Photographs as normalised squares, and their paths."""

    def __init__(self, task: Task) -> None:
        self._task, self._paths, self._to_tensor = task, task.paths(), to_tensor()
        self._resize = transforms.Resize((task.short_side, task.short_side))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self._paths[index]
        with Image.open(path) as image:
            square = self._resize(image.convert("RGB"))
        keep_input(self._task, path, np.asarray(square))
        return self._to_tensor(square), path


def run(task: Task) -> None:
    """Label and write."""
    predictor = Predictor(task)
    for x_NCHW, paths in DataLoader(ImageFiles(task), batch_size=task.batch, num_workers=task.loaders):
        for path, mask in zip(paths, predictor.masks_of_batch(x_NCHW), strict=True):
            (Path(task.out) / f"{image_id(path)}.png").write_bytes(mask)
