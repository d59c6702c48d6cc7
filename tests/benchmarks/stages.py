"""How the milliseconds per image are spent: core time by stage and by process, while all workers are at work.

The total is all cores times the length of the steady state. Each stage is timed in CPU time by the thread that runs it. The CPU
time of a worker outside its stages is its rest (rows, digests, queues, Ray's own threads). The other processes are sampled. The
remaining time was idle, or taken by other programs.
"""

from collections.abc import Iterable, Mapping
from statistics import mean

from tests.benchmarks.common import Grid
from tests.benchmarks.runs import BENCHMARK, IDLE, S3_SERVER, WORKERS, Ran, Window

STAGES = ("read", "decode", "resize", "network", "labels", "statistics", "encode", "commit")
REST, HELPERS, ELSE = "rest of the worker", "driver and Ray's processes", "other programs"
_BELOW = (REST, HELPERS, S3_SERVER, IDLE, ELSE)
Milliseconds = dict[str, float]


def processes(run: Ran, window: Window) -> Milliseconds:
    """CPU milliseconds per image by process, without the workers and this benchmark."""
    per_image = 1000 / (window.images_per_s * (window.stop - window.start))
    used = run.watch.between(window.start, window.stop)
    return {name: per_image * spent for name, spent in used.items() if name not in (WORKERS, IDLE, BENCHMARK)}


def breakdown(run: Ran, window: Window, workers: int) -> Milliseconds:
    """Milliseconds of core time per image, by row of the table. Their sum is 1000 * workers / (images per second)."""
    rows = dict(window.milliseconds)
    rows[REST] = window.cpu_ms - sum(rows.values())
    beside = processes(run, window)
    if S3_SERVER in beside:
        rows[S3_SERVER] = beside.pop(S3_SERVER)
    if beside:
        rows[HELPERS] = sum(beside.values())
    remaining = 1000 * workers / window.images_per_s - sum(rows.values())
    idle_s = run.watch.between(window.start, window.stop).get(IDLE, 0.0)
    rows[IDLE] = max(0.0, min(remaining, 1000 * idle_s / (window.images_per_s * (window.stop - window.start))))
    rows[ELSE] = remaining - rows[IDLE]
    return rows


def core_ms(rows: Milliseconds) -> float:
    """Core time per image, of all processes that work on it. Other programs disturb this figure least."""
    return sum(spent for name, spent in rows.items() if name not in (IDLE, ELSE))


def mean_of(runs: Iterable[Milliseconds]) -> Milliseconds:
    """The mean of each row over the runs. The means still add up to the mean total."""
    found = list(runs)
    names = dict.fromkeys(name for run in found for name in run)
    return {name: mean(run.get(name, 0.0) for run in found) for name in names}


def row_names(columns: Mapping[str, Milliseconds]) -> list[str]:
    """The names of the rows, in the order of an image's way through the stages."""
    found = dict.fromkeys(name for column in columns.values() for name in column)
    new = [name for name in found if name not in STAGES and name not in _BELOW]
    return [name for name in (*STAGES, *new, *_BELOW) if name in found]


def stages_grid(columns: Mapping[str, Milliseconds]) -> Grid:
    """A table with one row per stage and one column per contender. The last row is the sum."""
    rows = [[name, *(_ms(column.get(name)) for column in columns.values())] for name in row_names(columns)]
    total = ["together", *(_ms(sum(column.values())) for column in columns.values())]
    return Grid(("ms of a core per image", *columns), [*rows, total])


def processes_grid(columns: Mapping[str, Milliseconds]) -> Grid:
    """A table of CPU milliseconds per image of each process beside the workers, the most expensive first."""
    ranked = sorted({name for column in columns.values() for name in column}, key=lambda name: -_most(columns, name))
    rows = [[name, *(_ms(column.get(name)) for column in columns.values())] for name in ranked]
    return Grid(("CPU ms per image beside the workers", *columns), rows)


def _most(columns: Mapping[str, Milliseconds], name: str) -> float:
    return max(column.get(name, 0.0) for column in columns.values())


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
