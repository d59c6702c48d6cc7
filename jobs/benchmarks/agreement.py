"""Labels of one engine against those of another, and of each against the ground truth, at the photographs' own size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.benchmarks.truth import confusion, mean_iou, pixel_accuracy
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model.engine import Engine


@dataclass(frozen=True, slots=True)
class Agreement:
    """Pixels with the same label, of how many, in how many images, and how many classes the reference saw there."""

    equal: int
    pixels: int
    images: int
    classes: int

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100 * self.equal / self.pixels


@dataclass(frozen=True, slots=True)
class Judged:
    """mIoU and pixel accuracy, % of the pixels that are not void, over so many images."""

    miou: float
    pixel_accuracy: float
    images: int


def label_map(engine: Engine, image: Image.Image, short_side: int) -> npt.NDArray[np.uint8]:
    """Labels uint8 (H, W) of an upright RGB image, as a run stores them."""
    logits = engine.logits(resize(image, short_side, max_pixels=1 << 30))
    return labels_of(engine, logits, image.height, image.width).mask


def agreement(engine: Engine, reference: Engine, images: Sequence[Image.Image], short_side: int) -> Agreement:
    """How many pixels both engines label alike."""
    equal = pixels = 0
    seen: set[int] = set()
    for image in images:
        theirs = label_map(reference, image, short_side)
        equal += int((label_map(engine, image, short_side) == theirs).sum())
        pixels += theirs.size
        seen.update(np.unique(theirs).tolist())
    return Agreement(equal, pixels, len(images), len(seen))


def judge(
    engines: Mapping[str, Engine], images: Sequence[tuple[Image.Image, npt.NDArray[np.uint8]]], short_side: int, classes: int
) -> dict[str, Judged]:
    """Every engine against the ground truth of (image, mask) pairs."""
    sums = {name: np.zeros((classes, classes), np.int64) for name in engines}
    for image, truth in images:
        for name, engine in engines.items():
            sums[name] += confusion(truth, label_map(engine, image, short_side), classes)
    return {name: Judged(100 * mean_iou(found), 100 * pixel_accuracy(found), len(images)) for name, found in sums.items()}
