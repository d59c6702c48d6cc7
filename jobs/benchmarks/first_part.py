"""How soon is the first part of 16 images committed, with warm caches, and how much of that is Ray's own start?

`python -m jobs.benchmarks.first_part`. Ray's own: a process that starts Ray as the job does and gets one row through a pool
of as many actors that do nothing. A worker's own: from its first call to its first image.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import click

from jobs.benchmarks.machine import machine
from jobs.benchmarks.pairs import interleaved
from jobs.benchmarks.photographs import photographs, write_tars
from jobs.benchmarks.report import OUT, Grid, Report, publish
from jobs.benchmarks.watched_run import watched_run
from jobs.command import run_job

PART_IMAGES = 16
GOAL_S, WORKER_GOAL_S = 15.0, 2.0
_NOTHING = """
import time
import ray.data
from pipeline.driver import ray_data as flow
class Nothing:
    def __call__(self, batch):
        return batch
if __name__ == "__main__":
    flow.start_ray(debug=False)
    rows = ray.data.from_items([{"x": 1}, {"x": 2}], override_num_blocks=2)
    done = rows.map_batches(Nothing, batch_size=1, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2))
    next(iter(done.iter_batches(batch_size=None, prefetch_batches=0)))
    print(time.time())
"""
_WORKER = """
import sys, time
started = time.perf_counter()
from jobs.benchmarks.photographs import photographs
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.model.loading import load_engine
from pipeline.labels.prepare import prepare
from pipeline.model.prepare import NetworkRequest
from pipeline.model.zoo import DEFAULT_MODEL
short_side = int(sys.argv[1])
network = prepare(NetworkRequest(model=DEFAULT_MODEL, weights="bundled", engine="openvino", short_side=short_side))
import pipeline.worker.span_worker
labeller = Labeller(load_engine(network), LabelOptions(classes=network.classes, preset=network.preset))
labeller.label(labeller.read(photographs()[0]))
print(time.perf_counter() - started)
"""


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--short-side", default=520, show_default=True)
@click.option("--out", default=OUT, show_default=True, metavar="FOLDER")
def main(rounds: int, short_side: int, out: str) -> None:
    """Measure the start of a run."""
    os.environ["RAY_ADDRESS"] = "local"  # Ray's start is part of what is measured
    run_job(lambda: _measure(rounds, short_side, out))


def _measure(rounds: int, short_side: int, out: str) -> int:
    here = machine()
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        scratch = Path(folder)
        write_tars(scratch / "in", photographs(), 2 * PART_IMAGES, images_a_tar=PART_IMAGES)
        (scratch / "nothing.py").write_text(_NOTHING)
        runs: dict[str, Callable[[], float]] = {
            "first part": partial(_first_part, scratch, short_side), "Ray's own": partial(_script, scratch / "nothing.py"),
            "a worker": partial(_worker, short_side),
        }  # fmt: skip
        _first_part(scratch, short_side)  # warms the caches
        found = list(interleaved(runs, rounds))
    rows = [[name, *(f"{pick(each[name] for each in found):.1f}" for pick in (median, min, max))] for name in runs]
    met = median(each["first part"] for each in found) <= GOAL_S and median(each["a worker"] for each in found) <= WORKER_GOAL_S
    report = Report(
        name="first-part", title=f"The first part of {PART_IMAGES} images, short side {short_side}", machine=here,
        grids=(Grid(("seconds", "median", "least", "most"), rows),),
        notes=(
            "first part: from the start of the command to the commit, caches warm; of that Ray's own: the same for actors that "
            "do nothing.", "a worker: imports, network and first image, in a process of its own.",
            f"first part within {GOAL_S:.0f} s, a worker within {WORKER_GOAL_S:.0f} s: {'met' if met else 'not met'}.",
        ), values={"rounds": found},
    )  # fmt: skip
    publish(report, out)
    return 0


def _first_part(scratch: Path, short_side: int) -> float:
    out = scratch / f"out-{time.time_ns()}"
    flags = ["--weights", "bundled", "--short-side", str(short_side), "--part-images", str(PART_IMAGES)]
    run = watched_run(scratch / "in", out, flags, every_s=None)
    return min(stamps[0].unix_s for stamps in run.stamps.values()) - run.began


def _script(file: Path) -> float:
    began = time.time()
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) - began


def _worker(short_side: int) -> float:
    done = subprocess.run([sys.executable, "-c", _WORKER, str(short_side)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
