"""Daft's class UDF, for the recipe and for our own worker."""

from typing import Any

import daft
from daft import DataType

from tests.peers.task import Task


def class_udf(cls: type, task: Task, returns: DataType | None = None) -> Any:
    """`@daft.cls` with its batch method `masks`, as many processes as there are workers; decorated here, as sizes vary.

    It returns encoded masks, or what `returns` says.
    """
    dtype = returns or DataType.binary()

    class Sized(cls):  # type: ignore[misc]
        masks = daft.method.batch(return_dtype=dtype, batch_size=task.batch)(cls.masks)  # type: ignore[attr-defined]

    return daft.cls(use_process=True, max_concurrency=task.workers)(Sized)(task)
