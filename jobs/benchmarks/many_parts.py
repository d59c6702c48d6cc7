"""An output of very many parts: planned, resumed and closed, and run again with nothing new.

`python -m jobs.benchmarks.many_parts FILE` is the driver whose time and memory count: a real attempt, to its end. Parts, their
footers and the shards that they are of are made up by a server (`generated_s3`), which counts what it is asked.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmarks.generated_parts import PART_IMAGES, GeneratedParts
from jobs.benchmarks.generated_s3 import BUCKET, OUT, PREFIX, REQUESTS
from jobs.benchmarks.memory import uss, watched
from pipeline.config import SegmentConfig
from pipeline.driver.attempt import Attempt
from pipeline.driver.progress import Progress
from pipeline.errors import Incomplete
from pipeline.labels.prepare import prepare
from pipeline.plan.fingerprint import settings
from pipeline.plan.options import network_request
from pipeline.sums.checkpoint import NAME, checkpoint_bytes

_POLL_S = 0.01
_NEW = 100  # of so many parts one is not in the checkpoint of the first attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """An attempt. seconds: of the process; stages: of the attempt, by its phases. peak_mib: USS. requests: by kind."""

    seconds: float
    stages: dict[str, float]
    peak_mib: float
    requests: dict[str, int]
    counts: dict[str, int]


def _config() -> SegmentConfig:
    return SegmentConfig(
        input=(f"s3://{BUCKET}/{PREFIX}",), output=f"s3://{BUCKET}/{OUT.rstrip('/')}", weights="bundled", short_side=64,
        part_images=PART_IMAGES, failure_budget=1.0,
    )  # fmt: skip


def generated(count: int) -> GeneratedParts:
    """Of a run of this version."""
    config = _config()
    network = prepare(network_request(config))
    return GeneratedParts(count, BUCKET, PREFIX, settings(config, network)["fingerprint"], network.classes)


def many_parts(count: int, scratch: Path) -> dict[str, Any]:
    """An attempt that plans, reads the footers of one part in a hundred and closes; and one that finds nothing to do.

    Raises `Incomplete` where one of them fails.
    """
    parts = generated(count)
    new = max(1, count // _NEW)
    with served(parts, scratch) as url:
        _put(url, NAME, checkpoint_bytes(parts.totals(count - new), parts.fingerprint))
        first, again = (_drive_process(url, scratch / f"{name}.json") for name in ("first", "again"))
        left = json.loads(urllib.request.urlopen(f"{url}/{BUCKET}/{OUT}run.json", timeout=60).read())  # noqa: S310 - our own server
    wanted = parts.totals(count)
    if (left["labels_digest"], left["counts"]["images"]) != (wanted.labels_digest, wanted.images):
        raise Incomplete(f"the sums of {count:,} parts are not those that were generated: {left['counts']}")
    return {
        "parts": count, "shards": parts.shards, "new": new,
        "first": _values(first), "again": _values(again),
    }  # fmt: skip


def _values(driven: Driven) -> dict[str, Any]:
    return {name: getattr(driven, name) for name in Driven.__slots__}


@contextmanager
def served(parts: GeneratedParts, scratch: Path) -> Iterator[str]:
    """A server in a process of its own; its URL."""
    told = scratch / "parts-server.txt"
    command = [sys.executable, "-m", "jobs.benchmarks.generated_s3", str(parts.shards), str(told), parts.to_json()]
    server = subprocess.Popen(command)
    try:
        while not (told.exists() and told.read_text().endswith("\n")):
            time.sleep(_POLL_S)
        yield told.read_text().split()[0]
    finally:
        server.terminate()
        server.wait()


def environment(url: str) -> dict[str, str]:
    """What a process needs to ask this server."""
    return {
        "RAY_ADDRESS": "local", "AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "generated", "AWS_SECRET_ACCESS_KEY": "generated",
    }  # fmt: skip


def _put(url: str, name: str, data: bytes) -> None:
    request = urllib.request.Request(f"{url}/{BUCKET}/{OUT}{name}", data=data, method="PUT")  # noqa: S310 - our own server
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310


def _asked(url: str) -> Counter[str]:
    with urllib.request.urlopen(url + REQUESTS, timeout=60) as answer:  # noqa: S310 - our own server
        return Counter(json.loads(answer.read()))


def _drive_process(url: str, report: Path) -> Driven:
    said, before, began = report.with_suffix(".log"), _asked(url), time.perf_counter()
    with said.open("wb") as log:
        command = [sys.executable, "-m", "jobs.benchmarks.many_parts", str(report)]
        driver = subprocess.Popen(command, env=os.environ | environment(url), stdout=log, stderr=log)
        peak = max((uss(driver.pid) for _ in watched(driver, every_s=0.2)), default=0.0)
    seconds = time.perf_counter() - began
    if driver.returncode or not report.exists():
        raise Incomplete(f"the driver ended with exit code {driver.returncode}:\n{said.read_text()[-2000:]}")
    found = json.loads(report.read_text())
    return Driven(
        seconds=seconds, stages=found["stages"], peak_mib=peak, requests=dict(_asked(url) - before), counts=found["counts"]
    )


def _drive(report: str) -> None:
    """An attempt from its start to its end, and when its phase changed."""
    progress, done = Progress(), threading.Event()
    changes = [(progress.phase, time.perf_counter())]

    def watch() -> None:
        while not done.wait(_POLL_S):
            if changes[-1][0] != progress.phase:
                changes.append((progress.phase, time.perf_counter()))

    with ThreadPoolExecutor(1) as thread:
        thread.submit(watch)
        try:
            outcome = Attempt(_config(), progress).run()
        finally:
            done.set()
    if outcome.error is not None:
        raise outcome.error
    stages: dict[str, float] = {}
    for (phase, began), (_, ended) in zip(changes, [*changes[1:], ("end", time.perf_counter())], strict=True):
        stages[phase] = stages.get(phase, 0.0) + ended - began
    Path(report).write_text(json.dumps({"stages": stages, "counts": outcome.run["counts"]}))


if __name__ == "__main__":
    _drive(*sys.argv[1:])
