"""A run of `segment` in a process of its own, watched from outside: its memory, and when its workers ended each part."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmarks.memory import uss, watched, workers_of
from jobs.benchmarks.steady import Stamp, Window, steady
from jobs.benchmarks.whole_job import read_trace
from pipeline.errors import Incomplete
from pipeline.worker.span_worker import TRACE

DRIVER = "driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """began: unix seconds. seconds: from start to exit. stamps: of each worker, a part each.

    memory: seconds since the start, process, MiB.
    """

    began: float
    seconds: float
    images: int
    stamps: dict[int, list[Stamp]]
    memory: list[tuple[float, str, float]]
    run: dict[str, Any]

    @property
    def steady(self) -> Window | None:
        """While all workers were at work; None where the run was too short for that."""
        return steady(self.stamps)

    @property
    def last_part_s(self) -> float:
        """Seconds from the start to the last part: from there on memory is given back."""
        return max((stamps[-1].unix_s for stamps in self.stamps.values()), default=self.began) - self.began

    @property
    def tail_s(self) -> float:
        """From the moment at which the first worker had nothing left to do, to the last part."""
        last = [stamps[-1].unix_s for stamps in self.stamps.values()]
        return max(last) - min(last) if last else 0.0


def watched_run(source: Path, out: Path, flags: list[str], *, every_s: float | None) -> Watched:
    """Label `source` into the folder `out`; `every_s`: between two looks at its memory. Raises `Incomplete` where it fails."""
    trace, said = out.with_suffix(".trace"), out.with_suffix(".log")
    command = [sys.executable, "-m", "jobs.segment", "--input", str(source), "--output", str(out), *flags]
    memory: list[tuple[float, str, float]] = []
    with said.open("wb") as log:
        began, started = time.time(), time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | {TRACE: str(trace)}, stdout=log, stderr=log)
        for now in watched(process, every_s=every_s) if every_s else ():
            sizes = [(DRIVER, uss(process.pid)), *((f"worker {pid}", uss(pid)) for pid in workers_of(process.pid))]
            memory += [(now - began, name, mib) for name, mib in sizes if mib]
        process.wait()
        seconds = time.perf_counter() - started
    if process.returncode:
        raise Incomplete(f"`{' '.join(command[1:])}` exited with {process.returncode}:\n{said.read_text()[-2000:]}")
    stamps = read_trace(trace.read_text(encoding="utf-8"))
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return Watched(began=began, seconds=seconds, images=run["counts"]["images"], stamps=stamps, memory=_named(memory), run=run)


def _named(memory: list[tuple[float, str, float]]) -> list[tuple[float, str, float]]:
    """Process ids say nothing in a plot: workers are counted."""
    order = dict.fromkeys(name for _, name, _ in memory if name != DRIVER)
    names = {name: f"worker {number}" for number, name in enumerate(order, 1)} | {DRIVER: DRIVER}
    return [(round(moment, 2), names[name], round(mib, 1)) for moment, name, mib in memory]
