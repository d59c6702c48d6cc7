"""How good labels are against masks drawn by people: `python -m tests.support.quality FOLDER…`.

A folder holds `images/NAME.jpg` and `masks/NAME.png`: an index PNG of the image's size in the classes of PASCAL VOC, 255 = void.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import Segmenter


@dataclass(frozen=True, slots=True)
class Quality:
    """classes: names by class id. pixels: int64 (C, C), pixels by truth (rows) and by label (columns), without void ones."""

    classes: Sequence[str]
    images: int
    pixels: npt.NDArray[np.int64]

    @property
    def pixel_accuracy(self) -> float:
        """How many percent of the pixels have the right label."""
        return float(100 * np.trace(self.pixels) / self.pixels.sum())

    @property
    def iou(self) -> dict[str, float]:
        """Intersection over union in percent, by class name, for the classes that the masks hold."""
        hit, truth, found = np.diag(self.pixels), self.pixels.sum(1), self.pixels.sum(0)
        present = np.flatnonzero(truth)
        return {self.classes[number]: float(100 * hit[number] / (truth + found - hit)[number]) for number in present.tolist()}

    @property
    def miou(self) -> float:
        """The mean of `iou`, in percent."""
        return float(np.mean(list(self.iou.values())))


def quality_of(segmenter: Segmenter, folder: Path) -> Quality:
    """Label every image of a folder."""
    count = len(segmenter.classes)
    pixels = np.zeros((count, count), np.int64)
    files = sorted((folder / "images").glob("*.jpg"))
    for file in files:
        truth = np.asarray(Image.open(folder / "masks" / f"{file.stem}.png"))
        (labels,) = segmenter([file.read_bytes()])
        known = truth < count
        pairs = truth[known].astype(np.int64) * count + labels.label_map[known]
        pixels += np.bincount(pairs, minlength=count * count).reshape(count, count)
    return Quality(segmenter.classes, len(files), pixels)


@click.command()
@click.argument(
    "folders", metavar="FOLDER…", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
def main(folders: tuple[Path, ...]) -> None:
    """Print pixel accuracy, mIoU and the IoU of each class, of labels that the bundled weights give."""
    segmenter = Segmenter("bundled")
    for folder in folders:
        found = quality_of(segmenter, folder)
        best = sorted(found.iou.items(), key=lambda item: -item[1])
        accuracy, miou = f"pixel accuracy {found.pixel_accuracy:.1f}", f"mIoU {found.miou:.1f} of {len(best)}"
        click.echo(f"{folder}: {found.images} images, {accuracy}, {miou}")
        click.echo("  IoU: " + ", ".join(f"{name.strip('_')} {value:.1f}" for name, value in best))


if __name__ == "__main__":
    main()
