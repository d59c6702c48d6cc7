"""Where a run stands, for whoever shows it."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Counts of one attempt, updated as reports come in. Times are `time.monotonic` seconds.

    expected_images: a forecast where shards have not been read to their end. phase: what happens now.
    """

    phase: str = "starting"
    images: int = 0
    failures: int = 0
    inferred: int = 0
    skipped: int = 0
    parts: int = 0
    planned_rows: int = 0
    planned_bytes: int = 0
    read_bytes: int = 0
    milliseconds: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    labelling_since: float | None = None
    last_part: float = field(default_factory=time.monotonic)
    last_sign: float = field(default_factory=time.monotonic)  # of a worker that gets on

    @property
    def done(self) -> int:
        """Images that are committed, of this attempt and before."""
        return self.images + self.skipped

    @property
    def images_per_s(self) -> float:
        """Of this attempt since its first image; 0 before the first part."""
        if self.labelling_since is None or not self.images:
            return 0.0
        return self.images / max(1e-9, self.last_part - self.labelling_since)

    @property
    def expected_images(self) -> int | None:
        """Rows of single images, and shards by the bytes an image has taken so far."""
        if not self.planned_bytes:
            return self.planned_rows or None
        if not self.images or not self.read_bytes:
            return None
        return max(self.done, self.planned_rows + round(self.planned_bytes / (self.read_bytes / self.images)))

    @property
    def seconds_remaining(self) -> float | None:
        """At the speed so far."""
        if self.expected_images is None or not self.images_per_s:
            return None
        return (self.expected_images - self.done) / self.images_per_s
