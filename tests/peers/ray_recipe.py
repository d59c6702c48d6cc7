"""The recipe of Ray Data: `read_images` -> `map_batches` on an actor pool -> `write_parquet`.

https://docs.ray.io/en/latest/data/working-with-images.html ("Performing inference on images", "Saving images"), with the
resize in `read_images(size=)`, which moves uint8 through the object store and not floats. Ray is told of one CPU more
than there are workers: with actors on every CPU its reads never start.
"""

from typing import Any

import ray
import ray.data

from tests.peers.task import Task
from tests.peers.torch_recipe import Predictor


class TorchPredictor:
    """A batch of resized photographs in, their masks out."""

    def __init__(self, task: Task) -> None:
        self._predictor = Predictor(task)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        paths = [str(path) for path in batch["path"]]
        return {"path": paths, "mask": self._predictor.masks(list(batch["image"]), paths)}


def run(task: Task) -> None:
    """Label and write."""
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=task.workers + 1, include_dashboard=False)
    images = ray.data.read_images(task.paths(), size=(task.short_side, task.short_side), mode="RGB", include_paths=True)
    images.map_batches(
        TorchPredictor,
        batch_size=task.batch,
        num_cpus=1,
        fn_constructor_args=(task,),
        compute=ray.data.ActorPoolStrategy(size=task.workers),
    ).write_parquet(task.out)
