"""`peers`: the recipes of Ray Data, Daft and a DataLoader, and our own worker under Daft, against maskfleet's job.

First masks are checked: a recipe's masks against plain torchvision on the pixels that its network got, our worker's masks against
the job's. Then the best batch of each recipe is found. Then all run in interleaved rounds.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import altair as alt
import click
import numpy as np
import psutil
from PIL import Image

from jobs.bench import photographs
from jobs.command import run_job
from pipeline.errors import Bug
from pipeline.stopped import stop_on_signals
from tests.benchmarks import common
from tests.benchmarks.peer_results import Masks, compare, events_of, read_masks, rough_rate
from tests.benchmarks.recipes import Task, image_id, our_network, to_tensor, torchvision_model
from tests.benchmarks.runs import run_segment, steady

MASKFLEET, DAFT_WORKER = "maskfleet", "daft-worker"
OURS = (MASKFLEET, DAFT_WORKER)
TITLES = {
    "ray-16": "Ray Data recipe, batch 16", "ray": "Ray Data recipe, best batch", "daft": "Daft recipe, best batch",
    "dataloader": "DataLoader loop, best batch", DAFT_WORKER: "our worker under Daft", MASKFLEET: "maskfleet's job",
}  # fmt: skip
BATCHES = {"ray": (1, 2, 4, 8, 16), "daft": (1, 2, 4, 8, 16), "dataloader": (1, 2, 4, 8, 16), DAFT_WORKER: (1, 4, 16)}
IMAGES_PER_CORE = 48
FASTER = 8  # our contenders label so many times as many photographs, so that all runs last about as long
CHECKED = 8  # so many photographs are compared with torchvision, pixel by pixel
MIN_EQUAL = 0.9999  # fraction of equal pixels: sums are rounded differently in batches of another size
MAX_RESIZE_DIFFERENCE = 8.0  # mean, of 255 levels: libraries resize differently, but another photograph differs more
MIN_SEARCHED = 24
_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run. steady_per_s: images/s in the steady state; None if the run was too short. seconds: of the process."""

    images: int
    steady_per_s: float | None
    seconds: float


@dataclass(slots=True)
class Race:
    """All that was measured, by contender. tried: images/s by batch. masks: of the last run."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    settings: dict[str, Task] = field(default_factory=dict)
    tried: dict[str, dict[int, float]] = field(default_factory=dict)
    masks: dict[str, Masks] = field(default_factory=dict)

    @property
    def steady(self) -> bool:
        """Was each run long enough for a steady state?"""
        return all(run.steady_per_s for runs in self.runs.values() for run in runs)

    @property
    def rounds(self) -> list[dict[str, float]]:
        """Images/s, round by round: in the steady state; if one run was too short, all with start-up and end."""
        rates = [[(self.steady and run.steady_per_s) or run.images / run.seconds for run in runs] for runs in self.runs.values()]
        return [dict(zip(self.runs, found, strict=True)) for found in zip(*rates, strict=True)]


@click.command()
@common.with_photos
@click.option("--images", type=click.IntRange(min=2), help=f"In a run of a recipe [default: {IMAGES_PER_CORE} per core].")
@common.with_rounds
@common.with_short_side
@click.option("--precision", type=click.Choice(("fp32", "bf16")), default="fp32", show_default=True, help="Of our worker.")
@click.option("--only", type=click.Choice(list(TITLES)), multiple=True, help="Measure this one; repeat it [default: all].")
@common.with_out
def main(only: tuple[str, ...], **options: Any) -> None:
    """Measure maskfleet's job against what others would write, and its worker under Daft.

    Daft is in the environment of `make bench-peers`; the others run without it: --only.
    """
    run_job(lambda: _peers(only or tuple(TITLES), **options), goes_on=False)


def _peers(
    only: Sequence[str], photos: Sequence[str], images: int | None, rounds: int, short_side: int, precision: str, out: str
) -> int:
    stop_on_signals()  # so that no contender outlives this process
    data, workers = [encoded for _, encoded in photographs(photos)], common.cores()
    images, names = images or IMAGES_PER_CORE * workers, [name for name in TITLES if name in only]
    our_network(short_side, precision)  # converted now, so that all contenders find it in the cache
    race, template = Race(), Task(photos="", workers=workers, short_side=short_side, precision=precision)
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as scratch:
        ground = Ground(Path(scratch), Path(out).absolute() / "peers-logs", common.spread(data, images))
        race.settings = {name: find_setting(name, ground, template, race) for name in names}
        race.runs = {name: [] for name in names}
        runs = {name: partial(_run, name, ground, race, FASTER * images if name in OURS else images) for name in names}
        for number, found in enumerate(common.interleaved(runs, rounds), 1):
            click.echo(f"round {number} of {rounds}: " + ", ".join(f"{name} {rate:.2f}" for name, rate in found.items()))
    stem = common.publish(_report(race, images, template), out)
    _chart(race).save(str(stem.with_suffix(".svg")))
    return 0


@dataclass(frozen=True, slots=True)
class Ground:
    """What contenders work with: folders for photographs and masks, a folder for logs, the photographs themselves."""

    scratch: Path
    logs: Path
    data: Sequence[bytes]

    def run(self, name: str, images: int, settings: Sequence[Task], *, keep: bool = False) -> tuple[float, list[Task]]:
        """Label `images` photographs with each of these settings, in one process -> its seconds, and the tasks as run."""
        photos = self.scratch / f"photos-{images}"
        if not photos.exists():
            photos.mkdir()
            for index in range(images):
                (photos / f"{index:08d}.jpg").write_bytes(self.data[index % len(self.data)])
        tasks = []
        for setting in settings:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            (folder / "out").mkdir()
            task = replace(setting, photos=str(photos), out=str(folder / "out"), events=str(folder / "events"))
            tasks.append(replace(task, keep=str(folder)) if keep else task)
        if name == MASKFLEET:
            return _run_job(tasks[0]), tasks
        code = "from tests.benchmarks import recipes; recipes.main()"
        arguments = [name.removesuffix("-16"), json.dumps([asdict(task) for task in tasks])]
        return _launch([sys.executable, "-c", code, *arguments], self.logs / f"{name}.log"), tasks


def _launch(command: Sequence[str], log: Path) -> float:
    """Run a command to its end -> seconds. Raises `Bug` with the name of the log if the command fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"RAY_ADDRESS": "local", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONPATH": str(common.ROOT)}
    started = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=common.ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            process.wait(_LIMIT_S)
        finally:
            _end(process)
    if process.returncode:
        raise Bug(f"the contender exited with {process.returncode}: see {log}")
    return time.monotonic() - started


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a contender that still runs, and all processes that it started."""
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        process.kill()
        process.wait()


def _run_job(task: Task) -> float:
    """Run `python -m jobs.segment` as a user starts it -> seconds. Its trace becomes the events of the task."""
    part_images = max(1, min(256, len(task.paths()) // (6 * task.workers)))
    ran = run_segment([
        "--input", task.photos, "--output", task.out, "--weights", "bundled", "--short-side", task.short_side, "--precision",
        task.precision, "--workers", task.workers, "--part-images", part_images,
    ])  # fmt: skip
    lines = [f"{stamp.unix_s:.6f} {pid} {stamp.images}\n" for pid, stamps in ran.stamps.items() for stamp in stamps]
    Path(task.events).write_text("".join(lines), encoding="utf-8")
    return ran.seconds


def find_setting(name: str, ground: Ground, template: Task, race: Race) -> Task:
    """Check a contender, and find the batch with which it is fastest here."""
    if name not in OURS:  # tests compare our labels with torchvision's
        check(name, ground, template)
    if name not in BATCHES:
        return replace(template, batch=16 if name == "ray-16" else 1)
    settings = [replace(template, batch=batch) for batch in BATCHES[name]]
    _, tasks = ground.run(name, max(MIN_SEARCHED, 2 * template.workers * BATCHES[name][-1]), settings)
    rates = {each.batch: round(rough_rate(events_of(each)), 3) for each in tasks}
    race.tried[name], best = rates, max(rates, key=lambda batch: rates[batch])
    click.echo(f"{TITLES[name]}: {rates[best]:.2f} images/s with batch {best}, the best of {len(rates)}")
    return replace(template, batch=best)


def check(name: str, ground: Ground, template: Task) -> None:
    """Compare a recipe's masks with plain torchvision on the pixels that the recipe kept; these must show the photograph."""
    import torch

    images = min(CHECKED, len(ground.data))
    _, (task,) = ground.run(name, images, [replace(template, batch=min(4, images))], keep=True)
    model, tensor, expected = torchvision_model(), to_tensor(), {}
    assert task.keep is not None
    for path in task.paths():
        pixels_HWC = np.load(Path(task.keep) / f"{image_id(path)}.npy")
        photograph = Image.open(io.BytesIO(Path(path).read_bytes())).convert("RGB")
        plain_HWC = np.asarray(photograph.resize((task.short_side, task.short_side), Image.Resampling.BILINEAR))
        difference = np.abs(pixels_HWC.astype(np.float32) - plain_HWC).mean()
        if difference > MAX_RESIZE_DIFFERENCE:
            raise Bug(f"{name}: what it fed the network is not {path} (mean difference {difference:.1f} of 255)")
        with torch.inference_mode():
            expected[image_id(path)] = model(tensor(pixels_HWC).unsqueeze(0))["out"][0].argmax(0).to(torch.uint8).numpy()
    compare(name, read_masks(name, Path(task.out), expected), expected, MIN_EQUAL)


def _run(name: str, ground: Ground, race: Race, images: int) -> float:
    """One run of the race -> images/s. The masks are compared before the speed counts."""
    seconds, (task,) = ground.run(name, images, [race.settings[name]])
    masks = read_masks(name, Path(task.out), map(image_id, task.paths()))
    for other in {name, *(OURS if name in OURS else ())} & race.masks.keys():
        compare(name, masks, race.masks[other], 1.0)
    race.masks[name] = masks
    window = steady(events_of(task), 1 if name == "dataloader" else task.workers)
    race.runs[name].append(Run(images, window.images_per_s if window else None, seconds))
    return window.images_per_s if window else images / seconds


def _report(race: Race, images: int, template: Task) -> common.Report:
    rounds, rows = race.rounds, []
    for name in race.runs:
        speeds, ours = [each[name] for each in rounds], MASKFLEET in race.runs and name != MASKFLEET
        ratio = str(common.ratio(rounds, MASKFLEET, name)) if ours else "-"
        spare = [run.seconds - run.images / run.steady_per_s for run in race.runs[name] if run.steady_per_s]
        cells = (f"{median(speeds):.2f}", f"{min(speeds):.2f}-{max(speeds):.2f}", f"{median(spare):.1f}" if race.steady else "-")
        rows.append((TITLES[name], f"batch {race.settings[name].batch}", *cells, ratio))
    columns = ("", "at its best with", "images/s", "range", "s besides", "maskfleet's job is times as fast (95 %)")
    tried = [
        (TITLES[name], ", ".join(f"{batch}: {rate:.2f}" for batch, rate in found.items())) for name, found in race.tried.items()
    ]
    notes = [
        "images/s: in the steady state, while all workers are at work. s besides: the rest of "
        "the process's time (interpreter, Ray, Daft, loading, first batch, end).",
        "Recipes: torchvision in eager float32 on squares, masks of that size. Ours: the photograph's own aspect, more pixels, "
        "masks of the photograph's size, with statistics. All write 8-bit index PNGs, in Parquet or as files, to the local disk.",
        f"Ours label {FASTER} times as many photographs in a run ({FASTER * images} to {images}): all runs last about as long.",
        f"Correct first: at least {100 * MIN_EQUAL:g} % of the pixels of each recipe are plain torchvision's on the same pixels; "
        "our worker's masks are the job's; in each run each image was there exactly once, with the labels of the runs before.",
        "Ray Data has one CPU more than workers: with an actor on each CPU its reads never start.",
        *([] if race.steady else ["Too few images for a steady state: all images/s include start-up and end. Give --images."]),
    ]
    values = {
        "images": images, "runs": {name: [asdict(run) for run in runs] for name, runs in race.runs.items()},
        "images_per_s": rounds, "tried": race.tried, "batches": {name: task.batch for name, task in race.settings.items()},
    }  # fmt: skip
    return common.Report(
        name="peers", notes=notes, values=values, versions=("torchvision", *(["daft"] if "daft" in race.runs else [])),
        title=f"maskfleet and its peers, {template.precision}, {images} photographs in a run of a recipe, {len(rounds)} rounds",
        grids=[common.Grid(columns, rows), common.Grid(("looked for the best batch of", "images/s, once, by batch"), tried)],
    )  # fmt: skip


def _chart(race: Race) -> alt.LayerChart:
    rows = [
        {
            "name": TITLES[name],
            "speed": round(median(speeds), 2),
            "low": min(speeds),
            "high": max(speeds),
            "ours": name == MASKFLEET,
        }
        for name, speeds in ((name, [each[name] for each in race.rounds]) for name in race.runs)
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=240)))
    colour = alt.condition("datum.ours", alt.value("#d1602f"), alt.value("#9aa5b1"))
    room = alt.Scale(domain=[0, 1.12 * max(each for found in race.rounds for each in found.values())])  # for the figures
    bars = base.mark_bar().encode(
        x=alt.X("speed:Q", title="images/s, median; line: lowest and highest", scale=room), color=colour
    )
    ranges = base.mark_rule(color="#333333").encode(x="low:Q", x2="high:Q")
    texts = base.mark_text(align="left", dx=4, color="#333333").encode(x="high:Q", text=alt.Text("speed:Q", format=".1f"))
    chart: alt.LayerChart = (bars + ranges + texts).properties(
        width=520, height=alt.Step(26), title="Photograph to mask, all cores"
    )
    return chart
