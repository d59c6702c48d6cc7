"""A generated listing of many shards, planned and sent through Ray until a worker gets its first one.

`python -m jobs.benchmarks.million OUT FILE` is the driver whose time and memory count: a real attempt, with a stopwatch
around its listing; it ends itself once the first part is committed, and FILE says what took how long.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jobs.benchmarks.generated_s3 import BUCKET, PREFIX
from jobs.benchmarks.memory import uss, watched
from pipeline.config import SegmentConfig
from pipeline.driver import attempt as segment
from pipeline.driver.attempt import Attempt
from pipeline.driver.progress import Progress
from pipeline.errors import Incomplete
from pipeline.listing.listing import list_inputs
from pipeline.shards.base import SourceObject
from pipeline.stopped import Stopped, stop_on_signals

_POLL_S = 0.01
_LIMIT_S = 900.0


def million(shards: int, scratch: Path) -> dict[str, Any]:
    """Plan so many shards in a process of its own -> seconds and MiB by stage. Raises `Incomplete` where it fails."""
    told, report, out = scratch / "server.txt", scratch / "driver.json", scratch / "planned"
    server = subprocess.Popen([sys.executable, "-m", "jobs.benchmarks.generated_s3", str(shards), str(told)])
    try:
        while not (told.exists() and told.read_text().endswith("\n")):
            time.sleep(_POLL_S)
        environment = os.environ | {
            "RAY_ADDRESS": "local", "AWS_ENDPOINT_URL_S3": told.read_text().split()[0], "AWS_ACCESS_KEY_ID": "generated",
            "AWS_SECRET_ACCESS_KEY": "generated", "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        command = [sys.executable, "-m", "jobs.benchmarks.million", str(out), str(report)]
        said = scratch / "driver.log"  # its end is a kill in mid-work, which Ray comments on
        with said.open("wb") as log:
            driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        memory = [[now, uss(driver.pid)] for now in watched(driver, every_s=0.2)]
        if driver.returncode or not report.exists():
            raise Incomplete(
                f"the planning of {shards:,} shards ended with exit code {driver.returncode}:\n{said.read_text()[-2000:]}"
            )
    finally:
        server.terminate()
        server.wait()
    found: dict[str, Any] = json.loads(report.read_text())
    asked = [float(line) for line in told.read_text().split()[1:]]
    return _stages(shards, found, memory, asked, out)


def _stages(shards: int, found: dict[str, Any], memory: list[list[float]], asked: list[float], out: Path) -> dict[str, Any]:
    """From the moments at which the phase of the attempt changed."""
    at = dict(found["phases"])
    dispatched = min(moment for moment in asked if moment > at["starting workers"])
    files = list((out / "plan").glob("*.parquet"))
    until_dispatched = [mib for moment, mib in memory if moment < dispatched]
    until_planned = [mib for moment, mib in memory if moment < at["starting workers"]]
    planning_s = at["starting workers"] - at["planning"] - (found["listing_s"] - found["head_s"])
    return {
        "shards": shards,
        "listing_s": found["listing_s"],
        "planning_s": planning_s,
        "planned_s": found["listing_s"] + planning_s,
        "dispatched_s": dispatched - at["starting workers"],
        "first_part_s": at["labelling"] - at["starting workers"],
        "start_mib": found["start_mib"],
        "planned_peak_mib": max(until_planned, default=0.0),
        "dispatched_peak_mib": max(until_dispatched, default=0.0),
        "peak_mib": max(mib for _, mib in memory),
        "plan_files": len(files),
        "plan_bytes": sum(file.stat().st_size for file in files),
        "memory": [[round(moment - at["listing"], 2), round(mib, 1)] for moment, mib in memory],
    }


class _Stopwatch:
    """The real listing, and how long it took, apart from what was done with its entries."""

    def __init__(self) -> None:
        self.seconds = self.head_s = 0.0

    def list_inputs(self, *arguments: Any, **options: Any) -> Iterator[SourceObject]:
        entries = list_inputs(*arguments, **options)
        while True:
            started = time.perf_counter()
            entry = next(entries, None)
            self.seconds += time.perf_counter() - started
            self.head_s = self.head_s or self.seconds
            if entry is None:
                return
            yield entry


def _drive(out: str, report: str) -> None:
    """An attempt until its first part."""
    config = SegmentConfig(input=(f"s3://{BUCKET}/{PREFIX}",), output=out, weights="bundled", short_side=64)
    progress, stopwatch, phases = Progress(), _Stopwatch(), list[tuple[str, float]]()
    found: dict[str, Any] = {"start_mib": uss(os.getpid())}

    def watch() -> None:
        while progress.phase != "labelling":
            time.sleep(_POLL_S)
            if not phases or phases[-1][0] != progress.phase:
                phases.append((progress.phase, time.time()))
        os.kill(os.getpid(), signal.SIGTERM)

    attempt = Attempt(config, progress)
    stop_on_signals()
    threading.Thread(target=watch, daemon=True).start()
    try:
        with patch.object(segment, "list_inputs", stopwatch.list_inputs):
            attempt.run()
    except Stopped:
        pass
    Path(report).write_text(json.dumps(found | {"listing_s": stopwatch.seconds, "head_s": stopwatch.head_s, "phases": phases}))


if __name__ == "__main__":
    _drive(*sys.argv[1:])
