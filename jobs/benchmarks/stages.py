"""Where an image's milliseconds go: core time by stage and by process, in the window in which all workers are at work.

All cores times the length of the window is what there is to spend. A core has two threads to run, so the wall times of
their stages would count it twice; CPU time does not. Each stage is timed by the thread that runs it. What a worker
burns beyond its stages is its rest: rows, digests, the queue between its threads, threads of the S3 client; in the job
also Ray's own threads. The other processes are sampled. What then is left was idle, or taken by other programs.
"""

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import TYPE_CHECKING

from jobs.benchmarks.contenders import Measured
from jobs.benchmarks.cpu_shares import BENCHMARK, IDLE, S3_SERVER, WORKERS
from jobs.benchmarks.report import Grid

if TYPE_CHECKING:
    import altair as alt

STAGES = ("read", "decode", "resize", "network", "labels", "statistics", "encode", "commit")
REST, HELPERS, ELSE = "rest of the worker", "driver and Ray's processes", "other programs"
_BELOW = (REST, HELPERS, S3_SERVER, IDLE, ELSE)
Milliseconds = dict[str, float]


def processes(measured: Measured) -> Milliseconds:
    """One run's CPU milliseconds an image by process, besides the workers and this benchmark."""
    window = measured.window
    if window is None:
        return {}
    per_image = 1000 / (window.images_per_s * (window.stop - window.start))
    return {name: per_image * spent for name, spent in measured.cpu_s.items() if name not in (WORKERS, IDLE, BENCHMARK)}


def breakdown(measured: Measured, workers: int) -> Milliseconds:
    """One run's milliseconds of core time an image, by row of the table; together they are workers / images a second."""
    window = measured.window
    if window is None:
        return {}
    rows = dict(window.milliseconds)
    rows[REST] = window.cpu_ms - sum(rows.values())
    beside = processes(measured)
    if S3_SERVER in beside:
        rows[S3_SERVER] = beside.pop(S3_SERVER)
    if beside:
        rows[HELPERS] = sum(beside.values())
    left = 1000 * workers / window.images_per_s - sum(rows.values())
    idle_ms = 1000 * measured.cpu_s.get(IDLE, 0.0) / (window.images_per_s * (window.stop - window.start))
    rows[IDLE] = max(0.0, min(left, idle_ms))
    rows[ELSE] = left - rows[IDLE]
    return rows


def core_ms(rows: Milliseconds) -> float:
    """Core time that an image took, by whoever works on it: what other programs disturb least."""
    return sum(spent for name, spent in rows.items() if name not in (IDLE, ELSE))


def mean_of(runs: Iterable[Milliseconds]) -> Milliseconds:
    """The means of all rows over the runs that have any, so that they still add up."""
    found = [run for run in runs if run]
    names = dict.fromkeys(name for run in found for name in run)
    return {name: mean(run.get(name, 0.0) for run in found) for name in names}


def row_names(columns: Mapping[str, Milliseconds]) -> list[str]:
    """The rows of the table in the order in which an image meets them."""
    found = dict.fromkeys(name for column in columns.values() for name in column)
    new = [name for name in found if name not in STAGES and name not in _BELOW]
    return [name for name in (*STAGES, *new, *_BELOW) if name in found]


def stages_grid(columns: Mapping[str, Milliseconds]) -> Grid:
    """A row a stage, a column a contender; the last row is the sum."""
    rows = [(name, *(_ms(column.get(name)) for column in columns.values())) for name in row_names(columns)]
    total = ("together", *(_ms(sum(column.values())) for column in columns.values()))
    return Grid(("ms of a core an image", *columns), [*rows, total])


def processes_grid(columns: Mapping[str, Milliseconds]) -> Grid:
    """CPU milliseconds an image of every process beside the workers, the most expensive first."""
    roles = {role for column in columns.values() for role in column}
    ranked = sorted(roles, key=lambda role: -max(column.get(role, 0.0) for column in columns.values()))
    rows = [(role, *(_ms(column.get(role)) for column in columns.values())) for role in ranked]
    return Grid(("CPU ms an image beside the workers", *columns), rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def stages_chart(columns: Mapping[str, Milliseconds]) -> "alt.Chart":
    """A bar a contender, stacked by stage; other programs are left out."""
    import altair as alt

    order = [name for name in row_names(columns) if name != ELSE]
    values = [
        {"contender": name, "stage": stage, "order": order.index(stage), "ms": round(column[stage], 3)}
        for name, column in columns.items()
        for stage in order
        if column.get(stage, 0.0) > 0
    ]
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values), title="Where an image's core time goes")
        .mark_bar()
        .encode(
            x=alt.X("ms:Q", title="milliseconds of a core an image"),
            y=alt.Y("contender:N", title=None, sort=list(columns)),
            color=alt.Color("stage:N", sort=order, scale=alt.Scale(domain=order, scheme="tableau20"), title=None),
            order=alt.Order("order:Q"),
        )
        .properties(width=720, height=48 * len(columns))
    )
    return chart
