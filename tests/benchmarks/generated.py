"""Measures a driver with very many shards, and with an output of very many parts. A server beside it generates both.

The driver is `segment`, as a user starts it. Its files and its requests to the server show when it did what.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.config import load_config
from pipeline.errors import Incomplete
from pipeline.labels.prepare import prepare
from pipeline.plan.fingerprint import settings
from pipeline.plan.options import network_request
from pipeline.sums.checkpoint import NAME, checkpoint_bytes
from tests.benchmarks.common import ROOT
from tests.benchmarks.runs import uss_mib
from tests.support.generated_parts import PART_IMAGES, GeneratedParts
from tests.support.generated_s3 import BUCKET, OUT, PREFIX, Generated, generated_s3

INPUT, OUTPUT = f"s3://{BUCKET}/{PREFIX}", f"s3://{BUCKET}/{OUT.rstrip('/')}"
_FLAGS = ("--input", INPUT, "--weights", "bundled", "--short-side", "64")
_LOOK_S = 0.2
_NEW = 100  # one of so many parts is not in the checkpoint of the first attempt


def plan_shards(shards: int, scratch: Path) -> dict[str, Any]:
    """Plan so many shards, and label until the first part is there -> seconds and MiB by stage.

    planned_s: from the request for the second page of the listing, as Ray starts after the first; up to the last plan file.
    dispatched_s: from the last plan file to the first request for a shard. Raises `Incomplete` if the driver fails.
    """
    out, said = scratch / "planned", scratch / "planned.log"
    with generated_s3(shards, scratch) as server:
        driver = _start(("--output", str(out), *_FLAGS), server, said)
        memory, stopped = [], False
        for now, mib in _memory(driver):
            memory.append((now, mib))
            if not stopped and any((out / "masks").glob("*.parquet")):
                driver.send_signal(signal.SIGTERM)
                stopped = True
        asked = server.asked()
    files = sorted((out / "plan").glob("*.parquet"))
    if driver.returncode != 128 + signal.SIGTERM or not files:
        raise Incomplete(f"planning {shards:,} shards ended with exit code {driver.returncode}:\n{said.read_text()[-2000:]}")
    planned = max(file.stat().st_mtime for file in files)
    pages = asked["LIST"].times
    dispatched = min(moment for moment in asked["GET, shards"].times if moment > planned)
    return {
        "shards": shards, "planned_s": planned - pages[min(1, len(pages) - 1)], "dispatched_s": dispatched - planned,
        "planned_peak_mib": max(mib for moment, mib in memory if moment < planned),
        "dispatched_peak_mib": max(mib for moment, mib in memory if moment < dispatched),
        "plan_files": len(files), "plan_bytes": sum(file.stat().st_size for file in files),
    }  # fmt: skip


def many_parts(count: int, scratch: Path) -> dict[str, Any]:
    """Two attempts: the first plans, reads the footers of one part in a hundred, and ends; the second finds nothing to do.

    Raises `Incomplete` if an attempt fails, or if the sums are not those of the parts.
    """
    config = load_config({"input": (INPUT,), "output": OUTPUT, "weights": "bundled", "short_side": 64})
    network = prepare(network_request(config))
    parts = GeneratedParts(count, BUCKET, PREFIX, settings(config, network)["fingerprint"], network.classes)
    new = max(1, count // _NEW)
    with generated_s3(parts.shards, scratch, parts) as server:
        server.put(NAME, checkpoint_bytes(parts.totals(count - new), parts.fingerprint))
        first, again = (_attempt(server, scratch / name) for name in ("first", "again"))
        run = json.loads(server.get("run.json"))
    wanted = parts.totals(count)
    if (run["labels_digest"], run["counts"]["images"]) != (wanted.labels_digest, wanted.images):
        raise Incomplete(f"the sums of {count:,} parts are not those that were generated: {run['counts']}")
    return {"parts": count, "shards": parts.shards, "new": new, "first": first, "again": again}


def _attempt(server: Generated, files: Path) -> dict[str, Any]:
    """Run one attempt to its end -> its figures. requests: by kind. busy_s: from the first to the last request of a kind."""
    report, said = files.with_suffix(".json"), files.with_suffix(".log")
    flags = ("--output", OUTPUT, *_FLAGS, "--part-images", str(PART_IMAGES), "--failure-budget", "1", "--json", str(report))
    server.asked()
    began = time.perf_counter()
    driver = _start(flags, server, said)
    peak = max(mib for _, mib in _memory(driver))
    seconds = time.perf_counter() - began
    if driver.returncode:
        raise Incomplete(f"the driver ended with exit code {driver.returncode}:\n{said.read_text()[-2000:]}")
    asked = server.asked()
    return {
        "seconds": seconds, "peak_mib": peak, "counts": json.loads(report.read_text())["counts"],
        "requests": {kind: each.count for kind, each in asked.items()},
        "busy_s": {kind: each.last - each.times[0] for kind, each in asked.items()},
    }  # fmt: skip


def _start(flags: tuple[str, ...], server: Generated, said: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | server.environment | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    with said.open("wb") as log:
        command = [sys.executable, "-m", "jobs.segment", *flags]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def _memory(driver: "subprocess.Popen[bytes]") -> Iterator[tuple[float, float]]:
    """(Unix seconds, MiB of unique set size) of a process, until it ends."""
    process = psutil.Process(driver.pid)
    while driver.poll() is None:
        with suppress(psutil.Error, ProcessLookupError):
            yield time.time(), uss_mib(process)
        time.sleep(_LOOK_S)
