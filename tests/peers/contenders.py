"""Who competes, and how each is run: in a process of its own, what it says goes to a log."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from jobs.benchmarks.whole_job import read_trace
from pipeline.errors import MaskfleetError
from pipeline.worker.span_worker import TRACE
from tests.peers.task import Event, Task, read_events, to_json

Kind = Literal["recipe of the documentation", "our worker, another scheduler", "maskfleet"]
ROOT = Path(__file__).parents[2]
MASKFLEET = "maskfleet"
_LIMIT_S = 900.0


class PeerFailed(MaskfleetError):
    """A contender ended badly, or did not label what it was given; no speed counts then."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table.

    runs: its name for `tests.peers.run`. batch: of a recipe; None where the best is looked for. needs: a package.
    """

    name: str
    title: str
    kind: Kind
    runs: str = ""
    batch: int | None = None
    needs: str | None = None

    @property
    def is_recipe(self) -> bool:
        """Is it torchvision at a fixed size, and not our worker?"""
        return self.kind == "recipe of the documentation"

    @property
    def missing(self) -> bool:
        """Is its package not installed here?"""
        return self.needs is not None and importlib.util.find_spec(self.needs) is None

    def rate_workers(self, task: Task) -> int:
        """Workers that report batches: the loop over a DataLoader is one, on all cores."""
        return 1 if self.runs == "dataloader" else task.workers


CONTENDERS = (
    Contender("ray-16", "Ray Data recipe, batch 16", "recipe of the documentation", "ray", batch=16),
    Contender("ray", "Ray Data recipe, best batch", "recipe of the documentation", "ray"),
    Contender("daft", "Daft recipe, best batch", "recipe of the documentation", "daft", needs="daft"),
    Contender("dataloader", "DataLoader loop, best batch", "recipe of the documentation", "dataloader"),
    Contender("daft-worker", "our worker under Daft", "our worker, another scheduler", "daft-worker", needs="daft"),
    Contender("multiprocessing", "our worker under a Pool", "our worker, another scheduler", "multiprocessing"),
    Contender(MASKFLEET, "maskfleet's job", "maskfleet"),
)


def run_tasks(contender: Contender, tasks: Sequence[Task], log: Path) -> tuple[float, list[list[Event]]]:
    """Run these tasks in one process -> its seconds, from start to exit, and the batches of each task.

    Raises `PeerFailed`, with the log named.
    """
    if contender.name == MASKFLEET:
        (task,) = tasks
        return _run_job(task, log)
    seconds = _launch([sys.executable, "-m", "tests.peers.run", contender.runs, to_json(tasks)], log)
    return seconds, [read_events(Path(task.events)) for task in tasks]


def part_images(task: Task) -> int:
    """Images in a part of the job: 256 as by default, and fewer where a worker would have fewer than six parts."""
    return max(1, min(256, len(task.paths()) // (6 * task.workers)))


def _run_job(task: Task, log: Path) -> tuple[float, list[list[Event]]]:
    """`python -m jobs.segment`, as a user starts it; its trace tells when a part was labelled."""
    command = [
        sys.executable, "-m", "jobs.segment", "--input", task.photos, "--output", task.out, "--weights", "bundled",
        "--short-side", str(task.short_side), "--precision", task.precision, "--workers", str(task.workers),
        "--part-images", str(part_images(task)),
    ]  # fmt: skip
    trace = Path(task.events)
    return _launch(command, log, trace), [_events(trace)]


def _launch(command: list[str], log: Path, trace: Path | None = None) -> float:
    """Run it to its end -> seconds. Nothing looks at it meanwhile: that would take from its cores."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", TRACE)}
    environment |= {"RAY_ADDRESS": "local", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONPATH": str(ROOT)}
    environment |= {} if trace is None else {TRACE: str(trace)}
    started = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"no end after {_LIMIT_S:.0f} s: see {log}") from error
        finally:
            _end(process)
    if process.returncode:
        raise PeerFailed(f"`{' '.join(command[1:4])} …` exited with {process.returncode}: see {log}")
    return time.monotonic() - started


def _events(trace: Path) -> list[Event]:
    """The parts in the trace of the job's workers, each stamped by its worker."""
    parts = read_trace(trace.read_text(encoding="utf-8") if trace.exists() else "")
    return [Event(stamp.unix_s, str(pid), stamp.images) for pid, stamps in parts.items() for stamp in stamps]


def _end(process: subprocess.Popen[bytes]) -> None:
    """A contender that still runs is ended with all that it started."""
    if process.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.kill()
    process.wait()
