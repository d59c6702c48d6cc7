"""The peers, each in a process of its own: `main()` takes NAME and TASKS (JSON), and runs the tasks one after the other.

Recipes are written as in the documentation: torchvision's LR-ASPP in eager float32 on squares, `model(batch)["out"].argmax(1)`:
- Ray Data, docs.ray.io/en/latest/data/working-with-images.html: `read_images(size=)`, `map_batches` on actors, `write_parquet`;
- Daft, docs.daft.ai/en/stable/modalities/images/ and .../custom-code/cls/: `decode_image`, a class UDF, `write_parquet`;
- PyTorch, pytorch.org/docs/stable/data.html: a Dataset of files, a DataLoader, a loop that writes PNGs.
`daft-worker` is maskfleet's own labeller under Daft's scheduler. It stores whole rows of `masks/` in Parquet.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.labels.png import encode_mask

_COLUMNS = ("width", "height", "orientation", "mask", "mean_confidence", "ignored_fraction", "classes")
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of a contender.

    photos: folder of `<id>.jpg`. out: empty folder for the masks, 8-bit index PNGs as files or in Parquet. events: file that gets
    one line per batch that a process has labelled. short_side: of a recipe's squares, and of our images. keep: folder for the
    pixels that a recipe feeds its network, or None.
    """

    photos: str
    out: str = ""
    events: str = ""
    workers: int
    batch: int = 1
    short_side: int = 520
    precision: str = "fp32"
    keep: str | None = None

    def paths(self) -> list[str]:
        """The photographs, by name."""
        return [str(path) for path in sorted(Path(self.photos).glob("*.jpg"))]

    def finished(self, images: int) -> None:
        """Note that a worker has labelled so many more images."""
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(f"{time.time():.6f} {os.getpid()}.{threading.get_native_id()} {images}\n")


def image_id(path: str) -> str:
    """The image id in a path: `file:///folder/00000007.jpg` -> `00000007`."""
    return path.rpartition("/")[2].partition(".")[0]


def torchvision_model() -> Any:
    """torchvision's model in eval mode, with the bundled weights in float32."""
    from safetensors.torch import load
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    tensors = load((resources.files("pipeline.model") / "bundled.safetensors").read_bytes())
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    model.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    return model.eval()


def to_tensor() -> Any:
    """A transform: uint8 (H, W, 3) or a PIL image -> normalised float32 (3, H, W)."""
    from torchvision import transforms

    from pipeline.model.weights import TORCHVISION_PRESET

    normalize = transforms.Normalize(TORCHVISION_PRESET.mean, TORCHVISION_PRESET.std)
    return transforms.Compose([transforms.ToTensor(), normalize])


class Predictor:
    """Shared by the three recipes: loads the model once, then batches go in and PNGs come out."""

    def __init__(self, task: Task, threads: int | None = 1) -> None:
        import torch

        self.task = task
        if threads is not None:
            torch.set_num_threads(threads)
        self._torch, self._model, self._to_tensor = torch, torchvision_model(), to_tensor()

    def predict(self, images_HWC: list[Pixels], paths: list[str]) -> list[bytes]:
        """Photographs of one size, uint8 (H, W, 3) -> their masks, 8-bit index PNG."""
        for image_HWC, path in zip(images_HWC, paths, strict=True):
            _keep(self.task, path, image_HWC)
        return self.predict_batch(self._torch.stack([self._to_tensor(np.array(image)) for image in images_HWC]))

    def predict_batch(self, x_NCHW: Any) -> list[bytes]:
        """A normalised batch, float32 (N, 3, H, W) -> its masks, 8-bit index PNG."""
        with self._torch.inference_mode():
            label_maps = self._model(x_NCHW)["out"].argmax(1).to(self._torch.uint8).numpy()
        masks = [encode_mask(label_map) for label_map in label_maps]
        self.task.finished(len(masks))
        return masks


def _keep(task: Task, path: str, image_HWC: Pixels) -> None:
    if task.keep is not None:
        np.save(Path(task.keep) / f"{image_id(path)}.npy", image_HWC)


class RayPredictor(Predictor):
    """An actor of Ray Data."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        paths = [str(path) for path in batch["path"]]
        return {"path": paths, "mask": self.predict(list(batch["image"]), paths)}


def run_ray(task: Task) -> None:
    """Run the recipe of Ray Data. Ray gets one CPU more than workers: with an actor on each CPU its reads never start."""
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=task.workers + 1, include_dashboard=False)
    images = ray.data.read_images(task.paths(), size=(task.short_side, task.short_side), mode="RGB", include_paths=True)
    pool = ray.data.ActorPoolStrategy(size=task.workers)
    labelled = images.map_batches(RayPredictor, batch_size=task.batch, num_cpus=1, fn_constructor_args=(task,), compute=pool)
    labelled.write_parquet(task.out)


class DaftPredictor(Predictor):
    """A class UDF of Daft on resized photographs."""

    def masks(self, images: Any, paths: Any) -> list[bytes]:
        return self.predict(images.to_pylist(), paths.to_pylist())


def our_network(short_side: int, precision: str) -> Any:
    """The network that maskfleet runs. The process of a recipe does not import maskfleet's engine."""
    from pipeline.labels.prepare import prepare
    from pipeline.model.prepare import NetworkRequest
    from pipeline.model.zoo import DEFAULT_MODEL

    return prepare(
        NetworkRequest(model=DEFAULT_MODEL, weights="bundled", engine="openvino", short_side=short_side, precision=precision)
    )


class DaftWorker:
    """Our labeller under Daft: a batch of encoded photographs in, their rows out."""

    def __init__(self, task: Task) -> None:
        from pipeline.labels.labeller import Labeller, LabelOptions
        from pipeline.memory import bound_malloc
        from pipeline.model.loading import load_engine

        bound_malloc()  # workers of the job call this too
        network = our_network(task.short_side, task.precision)
        self._task, options = task, LabelOptions(classes=network.classes, preset=network.preset)
        self._labeller = Labeller(load_engine(network), options)

    def masks(self, images: Any, _paths: Any) -> list[dict[str, Any]]:
        found = []
        for data in images.to_pylist():
            found.append(self._labeller.label(self._labeller.read(data)).columns)
            self._task.finished(1)
        return found


def run_daft(task: Task, *, ours: bool = False) -> None:
    """Run the recipe of Daft, or our worker under Daft.

    Daft 0.7.26 runs a UDF on decoded images in threads of one process, whatever `use_process` says: it sends no such image to
    another process.
    """
    import daft
    import pyarrow as pa
    from daft import DataType, col

    from pipeline.schema import masks_schema

    kind: type = DaftWorker if ours else DaftPredictor
    row = pa.struct([masks_schema().field(name) for name in _COLUMNS])
    dtype = DataType.from_arrow_type(row) if ours else DataType.binary()

    class Sized(kind):  # type: ignore[misc]
        masks = daft.method.batch(return_dtype=dtype, batch_size=task.batch)(kind.masks)  # type: ignore[attr-defined]

    photos = daft.from_glob_path(f"{task.photos}/*.jpg").select("path").with_column("image", col("path").download())
    if not ours:
        decoded = col("image").decode_image(mode="RGB").resize(task.short_side, task.short_side)
        photos = photos.with_column("image", decoded.image_to_tensor())
    udf = daft.cls(use_process=True, max_concurrency=task.workers)(Sized)(task)
    photos.select("path", udf.masks(col("image"), col("path")).alias("row" if ours else "mask")).write_parquet(task.out)


class ImageFiles:
    """A map-style Dataset: photographs as normalised squares, and their paths."""

    def __init__(self, task: Task) -> None:
        self._task, self._paths, self._to_tensor = task, task.paths(), to_tensor()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        path, size = self._paths[index], (self._task.short_side, self._task.short_side)
        with Image.open(path) as image:
            square = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        _keep(self._task, path, np.asarray(square))
        return self._to_tensor(square), path


def run_dataloader(task: Task) -> None:
    """Run the recipe of a DataLoader: a loop in one process, with torch's own threads."""
    from torch.utils.data import DataLoader

    predictor, files = Predictor(task, threads=None), ImageFiles(task)
    for x_NCHW, paths in DataLoader(files, batch_size=task.batch, num_workers=task.workers):  # type: ignore[arg-type]
        for path, mask in zip(paths, predictor.predict_batch(x_NCHW), strict=True):
            (Path(task.out) / f"{image_id(path)}.png").write_bytes(mask)


def main() -> None:
    """Label the photographs of each task."""
    runs: dict[str, Callable[[Task], None]] = {
        "ray": run_ray, "daft": run_daft, "dataloader": run_dataloader, "daft-worker": partial(run_daft, ours=True),
    }  # fmt: skip
    for values in json.loads(sys.argv[2]):
        runs[sys.argv[1]](Task(**values))
