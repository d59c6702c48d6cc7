"""Whose CPU time it is: samples of a tree of processes, named by what they are."""

import os
import re
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import psutil

SAMPLE_S = 2.0
WORKERS, IDLE, S3_SERVER, BENCHMARK = "workers", "idle cores", "S3 server", "this benchmark"
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


def role(command: str) -> str:
    """What a process is, by its command line; actors of Ray Data by their own names."""
    known = next((name for part, name in _ROLES if part in command), None)
    actor = re.search(r"ray::(\w+)", command)
    return known or (f"Ray's {actor[1]}" if actor else "other")


@dataclass(slots=True)
class CpuShares:
    """Samples the CPU seconds of `root`, of all below it, and of `beside`, every two seconds while the body runs.

    samples: (unix seconds, CPU seconds so far by role; what the cores idled is a role too). A process that ends
    keeps what it had used.
    """

    root: int
    root_role: str
    beside: tuple[int, ...] = ()
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start to sample."""
        self._thread = threading.Thread(target=self._run, name="cpu-shares", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop."""
        self._stop.set()
        assert self._thread is not None  # noqa: S101 - entered before
        self._thread.join()

    def _run(self) -> None:
        self._sample()
        while not self._stop.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        import psutil

        for process in self._processes():
            try:
                used = process.cpu_times()
                self._seen[process.pid] = self._role(process), used.user + used.system
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        machine = psutil.cpu_times()
        totals = {IDLE: machine.idle + getattr(machine, "iowait", 0.0)}
        for name, seconds in self._seen.values():
            totals[name] = totals.get(name, 0.0) + seconds
        self.samples.append((time.time(), totals))

    def _role(self, process: "psutil.Process") -> str:
        known = {self.root: self.root_role, os.getpid(): BENCHMARK}
        return known.get(process.pid) or role(" ".join(process.cmdline()))

    def _processes(self) -> "list[psutil.Process]":
        import psutil

        try:
            root = psutil.Process(self.root)
            return [root, *root.children(recursive=True), *(psutil.Process(pid) for pid in self.beside)]
        except psutil.NoSuchProcess:  # it has just ended
            return []

    def between(self, start: float, stop: float) -> dict[str, float]:
        """CPU seconds by role between two moments (unix seconds), linear between samples."""
        early, late = self._at(start), self._at(stop)
        return {name: seconds - early.get(name, 0.0) for name, seconds in late.items()}

    def _at(self, moment: float) -> dict[str, float]:
        before = [sample for sample in self.samples if sample[0] <= moment]
        after = [sample for sample in self.samples if sample[0] > moment]
        if not before or not after:
            return before[-1][1] if before else after[0][1]
        (early, low), (late, high) = before[-1], after[0]
        share = (moment - early) / (late - early)
        return {name: low.get(name, 0.0) + share * (seconds - low.get(name, 0.0)) for name, seconds in high.items()}
