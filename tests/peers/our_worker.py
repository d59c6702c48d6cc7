"""The fair fight: maskfleet's own worker, photograph to PNG on OpenVINO, under somebody else's scheduler.

The photograph keeps its aspect (short side 520), the mask has its size; the row of `masks/` is stored whole, with its
statistics: by Daft in Parquet, by the pool as a PNG and a JSON file.
"""

import json
import multiprocessing
from pathlib import Path
from typing import Any

from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.labels.prepare import prepare
from pipeline.memory import bound_malloc
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest
from pipeline.schema import masks_schema
from tests.peers.task import Task, image_id

_MODEL = "lraspp_mobilenet_v3_large"
_COLUMNS = ("width", "height", "orientation", "mask", "mean_confidence", "ignored_fraction", "classes")
_loaded: tuple[Labeller, Task] | None = None  # of a process of the pool


def load(task: Task) -> Labeller:
    """What a worker of the job loads, set up as there."""
    bound_malloc()
    network = prepare(network_request(task.short_side, task.precision))
    return Labeller(load_engine(network), LabelOptions(classes=network.classes, preset=network.preset))


def network_request(short_side: int, precision: str) -> NetworkRequest:
    """The network of all contenders that run on OpenVINO."""
    return NetworkRequest(model=_MODEL, weights="bundled", engine="openvino", short_side=short_side, precision=precision)


def label(labeller: Labeller, data: bytes) -> dict[str, Any]:
    """An encoded photograph -> the columns of its row of `masks/`, the mask as PNG. Raises a `BadImage`."""
    return labeller.label(labeller.read(data)).columns


def run_pool(task: Task) -> None:
    """Under `multiprocessing.Pool`: a path at a time, whoever is free takes the next; masks become files."""
    with multiprocessing.get_context("spawn").Pool(task.workers, _load_in_pool, (task,)) as pool:
        for _ in pool.imap_unordered(_label_in_pool, task.paths()):
            pass


def _load_in_pool(task: Task) -> None:
    global _loaded  # noqa: PLW0603 - how a Pool's initializer hands something over
    _loaded = load(task), task


def _label_in_pool(path: str) -> None:
    assert _loaded is not None
    labeller, task = _loaded
    row = label(labeller, Path(path).read_bytes())
    mask = Path(task.out) / f"{image_id(path)}.png"
    mask.write_bytes(row.pop("mask")["bytes"])
    mask.with_suffix(".json").write_text(json.dumps(row))
    task.finished(1)


class DaftWorker:
    """Under Daft: a batch of encoded photographs in, their rows out; a process each."""

    def __init__(self, task: Task) -> None:
        self._task, self._labeller = task, load(task)

    def masks(self, images: Any, _paths: Any) -> list[dict[str, Any]]:
        found = []
        for data in images.to_pylist():
            found.append(label(self._labeller, data))
            self._task.finished(1)
        return found


def run_daft(task: Task) -> None:
    """Under Daft's scheduler: files -> `download` -> class UDF -> Parquet."""
    import daft
    import pyarrow as pa
    from daft import DataType, col

    from tests.peers.daft_udf import class_udf

    images = daft.from_glob_path(f"{task.photos}/*.jpg").select("path").with_column("image", col("path").download())
    schema = masks_schema()
    row = DataType.from_arrow_type(pa.struct([schema.field(name) for name in _COLUMNS]))
    worker = class_udf(DaftWorker, task, returns=row)
    images.select("path", worker.masks(col("image"), col("path")).alias("row")).write_parquet(task.out)
