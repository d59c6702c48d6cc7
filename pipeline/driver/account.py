"""What an attempt says of itself and of its run: the values of `run.json`, and of `--json`."""

import os
import time
import uuid
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from pipeline.config import SegmentConfig
from pipeline.driver.progress import Progress
from pipeline.model.engine import Prepared
from pipeline.plan.plan import Plan
from pipeline.storage import normalise, without_secrets
from pipeline.storage.retry import retries
from pipeline.sums.totals import Totals

_RECORDED = ("ray", "openvino", "torch", "torchvision", "pyarrow", "pillow", "numba", "numpy")


class Account:
    """Of one attempt, from its start on. id: of 12 hex digits, by which attempts are told apart."""

    def __init__(self, config: SegmentConfig, progress: Progress) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._config, self._progress = config, progress
        self._started, self._began = time.time(), time.monotonic()  # the first to tell, the second to measure by
        self._retries = retries()  # before this attempt

    def values(
        self, state: str, settings: dict[str, Any], network: Prepared, plan: Plan, totals: Totals, *, ignored: int
    ) -> dict[str, Any]:
        """All that `run.json` says. totals: of all parts of the run. ignored: objects of the input that are no images."""
        config, progress = self._config, self._progress
        images = max(totals.images, progress.done) if state == "running" else totals.images
        mine = {
            "id": self.id, "started": _utc(self._started), "seconds": round(time.monotonic() - self._began, 1), "state": state,
            "inferred": progress.inferred, "skipped": progress.skipped, "images_per_s": round(progress.images_per_s, 2),
            "pid": os.getpid(), "milliseconds": dict(progress.milliseconds),
            "retries": dict(progress.retries + (retries() - self._retries)),
        }  # fmt: skip
        return {
            "format": settings.get("format", 1),
            "maskfleet": version("maskfleet"), "state": state, "updated": _utc(time.time()),
            "counts": {
                "images": images, "masks": totals.masks, "failures": totals.failures, "broken_shards": totals.broken_shards,
                "inferred": progress.inferred, "skipped": progress.skipped,
            },
            "labels_digest": totals.labels_digest, "errors": dict(totals.errors.most_common()),
            "fingerprint": settings["fingerprint"], "labels": settings["labels"], "shape": settings["shape"],
            "weights": {"name": without_secrets(network.weights), "sha256": network.weights_sha256},
            "input": [without_secrets(normalise(text)) for text in config.input], "output": config.output,
            "plan_files": len(plan.files), "ignored_objects": ignored,
            "versions": _versions(),
            "attempts": [mine],
        }  # fmt: skip


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _RECORDED}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
