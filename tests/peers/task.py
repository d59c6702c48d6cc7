"""What a contender is told, and what it leaves: masks in a folder, and a line a finished batch."""

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of a contender.

    Attributes:
        photos: folder of `<id>.jpg`.
        out: empty folder for the masks: 8-bit index PNG, as files `<id>.png` or as Parquet.
        events: file that gets a line for every batch that a worker has labelled.
        workers: processes, a core each.
        batch: images that go through the network together (recipes).
        threads: of torch in a process; None leaves torch's own default.
        loaders: processes of a DataLoader.
        decode_in_udf: Daft hands no decoded image to another process: decode in the UDF, in processes, and not in threads.
        short_side: pixels: of the squares of a recipe, of the short side of ours.
        precision: of OpenVINO.
        keep: folder for the resized photographs as a recipe saw them, `<id>.npy`; None keeps none.
    """

    photos: str
    out: str
    events: str
    workers: int
    batch: int = 1
    threads: int | None = 1
    loaders: int = 1
    decode_in_udf: bool = False
    short_side: int = 520
    precision: str = "fp32"
    keep: str | None = None

    def paths(self) -> list[str]:
        """The photographs, by name."""
        return [str(path) for path in sorted(Path(self.photos).glob("*.jpg"))]

    def finished(self, images: int) -> None:
        """A worker has labelled so many more images."""
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(f"{time.time():.6f} {os.getpid()}.{threading.get_native_id()} {images}\n")


def to_json(tasks: Iterable[Task]) -> str:
    """Tasks for another process."""
    return json.dumps([asdict(task) for task in tasks])


def from_json(text: str) -> list[Task]:
    """What `to_json` wrote."""
    return [Task(**values) for values in json.loads(text)]


def image_id(path: str) -> str:
    """`file:///folder/00000007.jpg` -> `00000007`."""
    return path.rpartition("/")[2].partition(".")[0]


@dataclass(frozen=True, slots=True)
class Event:
    """A batch that was finished: seconds since the epoch, `<process>.<thread>`, images."""

    at: float
    worker: str
    images: int


def read_events(path: Path) -> list[Event]:
    """The lines that `Task.finished` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Event(float(at), worker, int(images)) for at, worker, images in (line.split() for line in lines)]


def steady_rate(events: Sequence[Event], workers: int) -> float | None:
    """Images a second of all workers together, in the steady state; None where the run was too short to tell.

    One definition for all contenders: a worker's speed is the images that it finished after its first batch, over the
    time from the end of its first batch to the end of its last; the contender's is the sum over its workers. So
    interpreters, Ray, Daft, loading and the first batch (page faults, compilation of shapes) are left out, and so is
    the wait of one worker for the other at the end. What a scheduler decoded ahead during the first batch is a gift to it.
    """
    by_worker: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.at):
        by_worker[event.worker].append(event)
    speeds = [
        sum(event.images for event in own[1:]) / (own[-1].at - own[0].at)
        for own in by_worker.values()
        if len(own) > 1 and own[-1].at > own[0].at
    ]
    if not speeds or len(by_worker) < workers:
        return None
    return workers * sum(speeds) / len(speeds)  # a worker that came late and did one batch is taken to be as fast


def rough_rate(events: Sequence[Event]) -> float:
    """Images a second from the first finished batch to the last, whoever did them; 0 where there was only one."""
    own = sorted(events, key=lambda event: event.at)
    if len(own) < 2 or own[-1].at <= own[0].at:
        return 0.0
    return sum(event.images for event in own[1:]) / (own[-1].at - own[0].at)
