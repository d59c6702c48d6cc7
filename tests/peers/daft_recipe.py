"""The recipe of Daft: a dataframe of files, `download`, `decode_image`, `resize`, a class UDF, `write_parquet`.

https://docs.daft.ai/en/stable/modalities/images/ ("End-to-End Image Pipeline", "UDF Best Practices for Images") and
https://docs.daft.ai/en/stable/custom-code/cls/ (`use_process`, `max_concurrency`, "Batch Methods"). Daft 0.7.26 hands only
Arrow's own types to another process: a UDF of decoded images runs in threads of one process, whatever `use_process` says;
`Task.decode_in_udf` is the way around it, and the faster of both is what counts.
"""

import io
from typing import Any

import numpy as np
from daft import col, from_glob_path
from PIL import Image

from tests.peers.daft_udf import class_udf
from tests.peers.task import Task
from tests.peers.torch_recipe import Predictor


class TorchPredictor:
    """A batch of resized photographs in, their masks out."""

    def __init__(self, task: Task) -> None:
        self._predictor = Predictor(task)

    def masks(self, images: Any, paths: Any) -> list[bytes]:
        return self._predictor.masks(images.to_pylist(), paths.to_pylist())


class DecodingPredictor:
    """The same from encoded photographs."""

    def __init__(self, task: Task) -> None:
        self._predictor, self._size = Predictor(task), (task.short_side, task.short_side)

    def masks(self, encoded: Any, paths: Any) -> list[bytes]:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded.to_pylist()]
        squares = [np.asarray(image.resize(self._size, Image.Resampling.BILINEAR)) for image in images]
        return self._predictor.masks(squares, paths.to_pylist())


def run(task: Task) -> None:
    """Label and write."""
    photos, side = (
        from_glob_path(f"{task.photos}/*.jpg").select("path").with_column("image", col("path").download()),
        task.short_side,
    )
    if not task.decode_in_udf:
        photos = photos.with_column("image", col("image").decode_image(mode="RGB").resize(side, side).image_to_tensor())
    predictor = class_udf(DecodingPredictor if task.decode_in_udf else TorchPredictor, task)
    photos.select("path", predictor.masks(col("image"), col("path")).alias("mask")).write_parquet(task.out)
