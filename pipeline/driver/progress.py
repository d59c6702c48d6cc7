"""How far a run has come, for the terminal and for `run.json`."""

import os
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from pipeline.config import SegmentConfig
from pipeline.model.engine import Prepared
from pipeline.output.reports import Event, ImageFailed, PartCommitted, PartReport, Retried, WorkerRetired
from pipeline.plan.plan import Plan
from pipeline.storage import normalise, without_secrets
from pipeline.storage.retry import retries
from pipeline.sums.totals import Totals

_RECORDED = ("ray", "openvino", "torch", "torchvision", "pyarrow", "pillow", "numba", "numpy")


@dataclass(slots=True)
class Progress:
    """Counts of one attempt; `hear` is a listener of its events. Times are `time.monotonic` seconds.

    phase: what happens now. failures: of this attempt. errors: these failures by class.
    skipped_parts: parts that were there when the attempt began. retired: number of nodes on which no worker can start.
    """

    phase: str = "starting"
    images: int = 0
    failures: int = 0
    inferred: int = 0
    skipped: int = 0
    parts: int = 0
    skipped_parts: int = 0
    planned_rows: int = 0
    planned_bytes: int = 0
    read_bytes: int = 0
    milliseconds: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    retired: int = 0
    labelling_since: float | None = None
    last_part: float = field(default_factory=time.monotonic)
    last_sign: float = field(default_factory=time.monotonic)  # when a worker last made progress

    def hear(self, event: Event) -> None:
        """Count an event."""
        match event:
            case PartReport():
                self.inferred += event.inferred
                self.milliseconds.update({stage: round(spent) for stage, spent in event.milliseconds.items()})
                if event.part is not None or event.in_hand:
                    self.last_sign = time.monotonic()
                    self.phase = self.phase if self.parts else "labelling the first parts"
            case PartCommitted(footer=footer, report=report):
                self.images += footer.masks + len(footer.failures)
                self.read_bytes += report.bytes
                self.parts += 1
                self.phase, self.last_part = "labelling", time.monotonic()
                began = self.last_part - report.seconds
                self.labelling_since = min(began, self.labelling_since or began)
            case ImageFailed(failure):
                self.failures += 1
                self.errors[failure.error] += 1
            case Retried(what, times):
                self.retries[what] += times
            case WorkerRetired():
                self.retired += 1

    @property
    def done(self) -> int:
        """How many images are committed, by this attempt and before it."""
        return self.images + self.skipped

    @property
    def images_per_s(self) -> float:
        """The speed of this attempt since its first image; 0 before the first part."""
        if self.labelling_since is None or not self.images:
            return 0.0
        return self.images / max(1e-9, self.last_part - self.labelling_since)

    @property
    def expected_images(self) -> int | None:
        """About how many images the run has: rows of single images, and for shards planned bytes / bytes per image so far."""
        if not self.planned_bytes:
            return self.planned_rows or None
        if not self.images or not self.read_bytes:
            return None
        return max(self.done, self.planned_rows + round(self.planned_bytes / (self.read_bytes / self.images)))

    @property
    def seconds_remaining(self) -> float | None:
        """Seconds until the end at the speed so far; None if nobody can say."""
        if self.expected_images is None or not self.images_per_s:
            return None
        return (self.expected_images - self.done) / self.images_per_s


class Account:
    """What one attempt writes into `run.json`, counted from its start. id: 12 hex digits, another for each attempt."""

    def __init__(self, config: SegmentConfig, progress: Progress) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._config, self._progress = config, progress
        self._started, self._began = time.time(), time.monotonic()  # the first is written down, the second measures
        self._retries = retries()  # those before this attempt

    def values(self, state: str, network: Prepared, plan: Plan, totals: Totals, *, ignored: int) -> dict[str, Any]:
        """The content of `run.json`. totals: over all parts of the run. ignored: number of input objects that are no images."""
        config, progress, settings = self._config, self._progress, plan.settings  # perhaps written by an older version
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
