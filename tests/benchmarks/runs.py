"""Runs `segment` in a process of its own, and watches it from outside: steady rates, CPU by process, memory.

Of the job only an error class is imported, so another version of the job can be run in the same way.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from pipeline.errors import Bug
from tests.benchmarks.common import ROOT

TRACE = "MASKFLEET_TRACE"
DRIVER, WORKERS, IDLE, S3_SERVER, BENCHMARK = "driver", "workers", "idle cores", "S3 server", "this benchmark"
_ROLES = (
    ("ray::MapWorker", WORKERS),
    ("raylet/raylet", "raylet"),
    ("gcs_server", "gcs_server"),
    ("dashboard/agent.py", "dashboard agent"),
    ("runtime_env/agent/main.py", "runtime_env agent"),
    ("log_monitor.py", "log monitor"),
    ("monitor.py", "autoscaler's monitor"),
    ("dashboard/dashboard.py", "dashboard"),
    ("multiprocessing", WORKERS),
    ("/weed", S3_SERVER),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A worker has finished `images` images since its last stamp.

    unix_s: when. cpu_s, milliseconds: CPU of the worker since its start, total and by stage.
    """

    unix_s: float
    images: int
    cpu_s: float = 0.0
    milliseconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The work of all workers between `start` and `stop` (Unix seconds).

    images_per_s: all workers together. wall_ms: of one worker, per image. cpu_ms, milliseconds: CPU of the workers per image,
    total and by stage.
    """

    start: float
    stop: float
    images: int
    images_per_s: float
    wall_ms: float
    cpu_ms: float
    milliseconds: dict[str, float]


def steady(stamps: Mapping[Any, Sequence[Stamp]], workers: int) -> Window | None:
    """The steady state of these workers; None if a worker has fewer than two stamps in it. stamps: in order, by worker.

    The steady state begins when every worker has its first stamp: all have started and met the first shapes. It ends at the
    first moment at which a worker has its last stamp: this worker runs dry. For each worker only the time between two of its own
    stamps counts, so that no image is cut. The rates of the workers are added up.
    """
    if len(stamps) < workers or not all(stamps.values()):
        return None
    start, stop = max(each[0].unix_s for each in stamps.values()), min(each[-1].unix_s for each in stamps.values())
    images, rate, wall_s, cpu_s, spent = 0, 0.0, 0.0, 0.0, dict[str, float]()
    for each in stamps.values():
        inside = [stamp for stamp in each if start <= stamp.unix_s <= stop]
        if len(inside) < 2:
            return None
        first, last = inside[0], inside[-1]
        done, seconds = sum(stamp.images for stamp in inside[1:]), last.unix_s - first.unix_s
        images, rate, wall_s, cpu_s = images + done, rate + done / seconds, wall_s + seconds, cpu_s + last.cpu_s - first.cpu_s
        for stage, total in last.milliseconds.items():
            spent[stage] = spent.get(stage, 0.0) + total - first.milliseconds.get(stage, 0.0)
    return Window(
        start=start, stop=stop, images=images, images_per_s=rate, wall_ms=1000 * wall_s / images, cpu_ms=1000 * cpu_s / images,
        milliseconds={stage: total / images for stage, total in spent.items()},
    )  # fmt: skip


def read_trace(text: str) -> dict[int, list[Stamp]]:
    """The trace of a job, one line per part that a worker labelled -> stamps by process id."""
    stamps: dict[int, list[Stamp]] = {}
    for part in map(json.loads, text.splitlines()):
        stamp = Stamp(unix_s=part["unix_s"], images=part["inferred"], cpu_s=part["cpu_s"], milliseconds=part["milliseconds"])
        stamps.setdefault(part["pid"], []).append(stamp)
    return stamps


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run. began: Unix seconds. seconds: from start to exit. stamps: by worker, one per part. watch: of its processes."""

    began: float
    seconds: float
    stamps: dict[int, list[Stamp]]
    watch: "Watch"

    @property
    def images(self) -> int:
        """How many images went through the network."""
        return sum(stamp.images for stamps in self.stamps.values() for stamp in stamps)

    @property
    def last_part_s(self) -> float:
        """Seconds from the start to the last part."""
        return max((stamps[-1].unix_s for stamps in self.stamps.values()), default=self.began) - self.began


def run_segment(
    flags: Sequence[object], *, checkout: Path | None = None, beside: Sequence[int] = (), memory: bool = False
) -> Ran:
    """Run `python -m jobs.segment` to its end, in this version or in that of `checkout`, on a Ray of its own.

    beside: more processes to watch. memory: note memory too. Raises `Bug` with the job's output if its exit code is not 0.
    """
    command = [sys.executable, "-m", "jobs.segment", *map(str, flags)]
    with tempfile.TemporaryDirectory() as scratch:
        trace, said = Path(scratch) / "trace", Path(scratch) / "said"
        home = checkout or ROOT
        environment = os.environ | {TRACE: str(trace), "RAY_ADDRESS": "local", "PYTHONPATH": str(home)}
        began, started = time.time(), time.perf_counter()
        with said.open("wb") as log:
            job = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
            with Watch(job.pid, DRIVER, beside, memory=memory) as watch:
                try:
                    job.wait()
                finally:
                    job.terminate()  # does nothing if the job has ended
        seconds = time.perf_counter() - started
        if job.returncode:
            raise Bug(f"`{' '.join(command[1:])}` exited with {job.returncode}:\n{said.read_text()[-3000:]}")
        stamps = read_trace(trace.read_text(encoding="utf-8"))
    return Ran(began=began, seconds=seconds, stamps=stamps, watch=watch)


def role(command: str) -> str:
    """The role of a process, from its command line. Actors of Ray Data have their own names."""
    known = next((name for part, name in _ROLES if part in command), None)
    actor = re.search(r"ray::(\w+)", command)
    return known or (f"Ray's {actor[1]}" if actor else "other")


class Watch:
    """Looks at a process, at all its descendants, and at `beside`, every two seconds while the body runs.

    samples: (Unix seconds, CPU seconds so far by role). Idle time of the cores is a role too. The CPU seconds of a process stay
    counted after it ends. memory: (Unix seconds, `driver` or the process id of a worker, MiB of unique set size), if asked for.
    """

    every_s = 2.0

    def __init__(self, root: int, root_role: str, beside: Sequence[int] = (), *, memory: bool = False) -> None:
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.memory: list[tuple[float, str, float]] = []
        self._root, self._root_role, self._beside, self._wants_memory = root, root_role, beside, memory
        self._seen: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        """Start to watch."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        self.sample()
        while not self._stop.wait(self.every_s):
            self.sample()

    def sample(self) -> None:
        """Take one sample."""
        now = time.time()
        for process in self.processes():
            with suppress(psutil.Error, ProcessLookupError):
                used = process.cpu_times()
                kind = {self._root: self._root_role, os.getpid(): BENCHMARK}.get(process.pid) or role(" ".join(process.cmdline()))
                self._seen[process.pid] = kind, used.user + used.system
                if self._wants_memory and kind in (self._root_role, WORKERS):
                    self.memory.append((now, kind if kind == DRIVER else str(process.pid), uss_mib(process)))
        machine = psutil.cpu_times()
        totals = {IDLE: machine.idle + getattr(machine, "iowait", 0.0)}
        for name, seconds in self._seen.values():
            totals[name] = totals.get(name, 0.0) + seconds
        self.samples.append((now, totals))

    def processes(self) -> list[psutil.Process]:
        """The watched processes that are there now."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._root)
            return [root, *root.children(recursive=True), *(psutil.Process(pid) for pid in self._beside)]
        return []  # the process has just ended

    def between(self, start: float, stop: float) -> dict[str, float]:
        """CPU seconds by role between two moments (Unix seconds), interpolated linearly between samples."""
        moments, names = [moment for moment, _ in self.samples], {name for _, totals in self.samples for name in totals}
        series = {name: [totals.get(name, 0.0) for _, totals in self.samples] for name in names}
        return {name: float(np.diff(np.interp([start, stop], moments, used))[0]) for name, used in series.items()}


def uss_mib(process: psutil.Process) -> float:
    """The unique set size of a process in MiB. RSS would also count the shared memory of Ray's object store."""
    return float(process.memory_full_info().uss) / (1 << 20)
