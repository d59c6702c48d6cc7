"""A real run of a few images into a folder that is then removed. It shows what a run takes here besides labelling."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import SegmentConfig, Workers
from pipeline.errors import Incomplete
from pipeline.shards.base import EncodedImage
from pipeline.worker.span_worker import TRACE

_IMAGES_A_WORKER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a rehearsal showed.

    seconds: of the process, from start to exit. images: labelled by its busiest worker. *_bytes: sizes of the files it left.
    """

    seconds: float
    images: int
    run_json_bytes: int
    class_stats_bytes: int
    checkpoint_bytes: int


NOTHING = Rehearsal(seconds=0.0, images=0, run_json_bytes=0, class_stats_bytes=0, checkpoint_bytes=0)


def rehearse(config: SegmentConfig, images: Sequence[EncodedImage], workers: int) -> Rehearsal:
    """Label some of these images, one tar per worker. Ray is started as a run on this machine would start it.

    Raises `Incomplete` if the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as scratch:
        source, out, trace = Path(scratch) / "in", Path(scratch) / "out", Path(scratch) / "trace"
        source.mkdir()
        for worker in range(workers):
            (source / f"{worker:05d}.tar").write_bytes(_tar(images[worker::workers][:_IMAGES_A_WORKER] or images[:1]))
        rehearsed = config.model_copy(
            update={
                "input": (str(source),), "output": str(out), "workers": Workers(workers, workers), "limit": None, "redo": None,
                "dry_run": False, "input_format": "auto", "image_ext": None, "image_column": None, "id_column": None,
                "failure_budget": 1.0, "allow_broken_shards": workers, "relabel_changed": False,
                "min_confidence": 0.0 if config.confidence_map else config.min_confidence,  # only old outputs may have both
            }
        )  # fmt: skip
        command = [sys.executable, "-m", "pipeline.forecast.rehearsal"]
        environment = os.environ | {
            "RAY_ADDRESS": "local",
            TRACE: str(trace),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        started = time.perf_counter()
        child = subprocess.run(  # the config goes in by stdin: all users of the machine can see arguments
            command, input=rehearsed.model_dump_json(), capture_output=True, text=True, env=environment, check=False
        )
        seconds = time.perf_counter() - started
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
            raise Incomplete(f"the rehearsal of the run failed: {last[:300]}")
        inferred = Counter[int]()
        for line in trace.read_text(encoding="utf-8").splitlines():
            part = json.loads(line)
            inferred[part["pid"]] += part["inferred"]
        return Rehearsal(
            seconds=seconds, images=max(inferred.values(), default=0), run_json_bytes=(out / "run.json").stat().st_size,
            class_stats_bytes=(out / "class_stats.parquet").stat().st_size,
            checkpoint_bytes=(out / "checkpoint.parquet").stat().st_size,
        )  # fmt: skip


def _tar(images: Sequence[EncodedImage]) -> bytes:
    """A tar of these images. An image without bytes becomes an empty member, which cannot be decoded."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number, image in enumerate(images):
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = len(image.data or b"")
            tar.addfile(member, io.BytesIO(image.data or b""))
    return sink.getvalue()


def _main(config: str) -> None:
    """The run itself, in a process of its own like every run."""
    from pipeline.driver.attempt import Attempt
    from pipeline.driver.progress import Progress

    outcome = Attempt(SegmentConfig.model_validate_json(config), Progress()).run()
    if outcome.error is not None:
        raise outcome.error


if __name__ == "__main__":
    _main(sys.stdin.read())
