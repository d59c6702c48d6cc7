"""The whole job as a user runs it: `python -m jobs.segment …` in a process of its own, on a Ray of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmarks.bare import png_digest
from jobs.benchmarks.cpu_shares import CpuShares
from jobs.benchmarks.steady import Stamp
from pipeline.api.opened import open_run
from pipeline.errors import Bug
from pipeline.model.engine import Prepared
from pipeline.worker.span_worker import TRACE

DRIVER = "driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """One run: seconds from start to exit, the stamps of each worker (one a part), CPU by process, and `run.json`."""

    seconds: float
    stamps: dict[int, list[Stamp]]
    shares: CpuShares
    run: dict[str, Any]


def run_whole_job(
    source: str, output: str, network: Prepared, *, part_images: int, workers: int, beside: tuple[int, ...] = ()
) -> JobRun:
    """Label `source` into `output`. Raises `Bug` with what the job said, where it does not exit with 0."""
    command = [
        sys.executable, "-m", "jobs.segment", "--input", source, "--output", output, "--weights", network.weights,
        "--short-side", str(network.preset.short_side), "--engine", network.engine, "--precision", network.precision,
        "--part-images", str(part_images), "--workers", str(workers),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace"
        environment = os.environ | {TRACE: str(trace), "RAY_ADDRESS": "local"}
        started = time.perf_counter()
        job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with CpuShares(job.pid, DRIVER, beside) as shares:
            said, _ = job.communicate()
        seconds = time.perf_counter() - started
        if job.returncode:
            raise Bug(f"`{' '.join(command[1:])}` exited with {job.returncode}:\n{said[-3000:]}")
        stamps = read_trace(trace.read_text(encoding="utf-8"))
    return JobRun(seconds=seconds, stamps=stamps, shares=shares, run=open_run(output).info)


def read_trace(text: str) -> dict[int, list[Stamp]]:
    """The lines that the workers wrote, one a part that they had labelled, as stamps by process id."""
    stamps: dict[int, list[Stamp]] = {}
    for line in text.splitlines():
        part: Mapping[str, Any] = json.loads(line)
        stamp = Stamp(
            unix_s=part["unix_s"], images=part["inferred"], cpu_s=part["cpu_s"], milliseconds=part["milliseconds"],
        )  # fmt: skip
        stamps.setdefault(part["pid"], []).append(stamp)
    return stamps


def masks_digest(output: str) -> int:
    """The same order-free digest as the bare loop's, of the masks that a run has committed."""
    total = 0
    for batch in open_run(output).masks.to_batches(columns=["shard", "index", "mask"]):
        for row in batch.to_pylist():
            total += png_digest(row["shard"], row["index"], row["mask"]["bytes"])
    return total
