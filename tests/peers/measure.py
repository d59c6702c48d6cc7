"""Check, look for each recipe's best settings, then race: interleaved rounds, one line a run."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from jobs.benchmarks.pairs import interleaved
from jobs.benchmarks.photographs import spread
from pipeline.image.resize import resized_size
from tests.peers.check import MIN_AGREEMENT_OF_ENGINES, Masks, agreement, check_ours, check_recipe, read_masks
from tests.peers.contenders import MASKFLEET, Contender, PeerFailed, run_tasks
from tests.peers.task import Task, image_id, rough_rate, steady_rate

CHECKED = 8  # photographs whose pixels are compared
FASTER = 8  # times as many photographs for OpenVINO, so that all runs last about as long
BATCHES = {"ray": (1, 2, 4, 8, 16), "daft": (1, 2, 4, 8, 16), "dataloader": (1, 2, 4, 8, 16), "daft-worker": (1, 4, 16)}
MIN_SEARCHED = 24


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the race.

    steady_per_s: images a second at steady state; None where it was too short for one. seconds: of its process.
    """

    images: int
    steady_per_s: float | None
    seconds: float

    @property
    def whole_per_s(self) -> float:
        """Images a second with start-up and end."""
        return self.images / self.seconds

    @property
    def besides_s(self) -> float | None:
        """Seconds besides labelling: interpreters, Ray, Daft, loading, the end."""
        return self.seconds - self.images / self.steady_per_s if self.steady_per_s else None


@dataclass(slots=True)
class Race:
    """All that was measured."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    settings: dict[str, Task] = field(default_factory=dict)
    tried: dict[str, dict[str, float]] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    against: dict[str, str] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    pixels: tuple[float, float] = (0.0, 0.0)

    @property
    def steady(self) -> bool:
        """Was every run long enough for a steady state?"""
        return all(run.steady_per_s is not None for runs in self.runs.values() for run in runs)

    @property
    def rounds(self) -> list[dict[str, float]]:
        """Images a second, round by round: at steady state, or with start-up for all where one run was too short."""
        count = min(map(len, self.runs.values()), default=0)
        steady = self.steady
        return [
            {name: (steady and runs[number].steady_per_s) or runs[number].whole_per_s for name, runs in self.runs.items()}
            for number in range(count)
        ]


class Ground:
    """The folders of one benchmark: photographs, masks, logs."""

    def __init__(self, scratch: Path, logs: Path, data: Sequence[bytes], images: int, template: Task) -> None:
        self._scratch, self._logs, self.template = scratch, logs, template
        self.data = spread(data, images)
        self.images = images

    def log(self, contender: Contender) -> Path:
        """What a contender says; appended to."""
        return self._logs / f"{contender.name}.log"

    def photos(self, images: int) -> Path:
        """A folder with so many photographs, repeated in order."""
        folder = self._scratch / f"photos-{images}"
        if not folder.exists():
            folder.mkdir()
            for index in range(images):
                (folder / f"{index:08d}.jpg").write_bytes(self.data[index % len(self.data)])
        return folder

    @contextmanager
    def task(self, images: int, setting: Task | None = None, *, keep: bool = False) -> Iterator[Task]:
        """A task on so many photographs; its folders are removed at the end."""
        with TemporaryDirectory(dir=self._scratch) as name:
            folder = Path(name)
            for each in ("out", "keep"):
                (folder / each).mkdir()
            yield replace(
                setting or self.template, photos=str(self.photos(images)), out=str(folder / "out"),
                events=str(folder / "events"), keep=str(folder / "keep") if keep else None,
            )  # fmt: skip

    @property
    def pixels(self) -> tuple[float, float]:
        """Pixels that the network reads of an image: of a recipe, and of ours on average."""
        from io import BytesIO

        from PIL import Image

        side = self.template.short_side
        sizes = [resized_size(*Image.open(BytesIO(data)).size, side) for data in self.data]
        return float(side * side), sum(width * height for width, height in sizes) / len(sizes)


def race(contenders: Sequence[Contender], data: Sequence[bytes], images: int, pairs: int, template: Task, logs: Path) -> Race:
    """Measure these contenders. Raises `PeerFailed` where one fails or labels otherwise than it should."""
    found = Race()
    with TemporaryDirectory() as scratch:
        ground = Ground(Path(scratch), logs, data, images, template)
        found.pixels = ground.pixels
        references = _check(contenders, ground, found)
        for contender in contenders:
            if contender.runs in BATCHES:
                found.settings[contender.name] = _setting(contender, ground, found)
        found.runs = {contender.name: [] for contender in contenders}

        def run(contender: Contender) -> float:
            done = _run(contender, ground, found, references[contender.runs or MASKFLEET])
            runs = found.runs[contender.name]
            runs.append(done)
            steady = "too short to tell" if done.steady_per_s is None else f"{done.steady_per_s:6.2f} images/s"
            line = f"{steady}, {done.images} images in {done.seconds:.0f} s in all"
            click.echo(f"round {len(runs)} of {pairs}  {contender.title:28} {line}")
            return done.whole_per_s

        racers = {contender.name: lambda contender=contender: run(contender) for contender in contenders}
        for _ in interleaved(racers, pairs):
            pass
    return found


def _check(contenders: Sequence[Contender], ground: Ground, found: Race) -> dict[str, Masks]:
    """Label a few photographs with each -> the masks that all its later runs must repeat, by what it runs."""
    references: dict[str, Masks] = {}
    images = min(CHECKED, len(ground.data))
    ours: Masks = {}
    for contender in sorted(contenders, key=lambda each: each.name != MASKFLEET):
        key = contender.runs or MASKFLEET
        if key in references:
            continue
        with ground.task(images, keep=contender.is_recipe) as task:
            run_tasks(contender, [replace(task, batch=min(4, images), loaders=task.workers)], ground.log(contender))
            masks = read_masks(contender.title, Path(task.out), map(image_id, task.paths()))
            if contender.is_recipe:
                found.agreement[key] = check_recipe(contender.title, task, masks)
                found.against[key] = "plain torchvision on the same pixels"
            elif not ours:
                found.agreement[key], ours = check_ours(task, masks), masks
                found.against[key] = "plain torchvision at the original size"
            else:
                found.agreement[key], found.against[key] = (
                    agreement(contender.title, masks, ours, 1.0),
                    "the same worker before it",
                )
        references[key] = masks
        click.echo(f"check  {contender.title:28} {100 * found.agreement[key]:.4f} % of the pixels as {found.against[key]}")
    return references


def _setting(contender: Contender, ground: Ground, found: Race) -> Task:
    """Batch, threads and processes with which a contender is fastest here; only the others where its batch is given."""
    start = ground.template
    if contender.runs == "dataloader":  # a loop in one process: torch's own threads, and loaders as its documentation says
        start = replace(start, threads=None, loaders=start.workers)
    if contender.batch is not None:
        return replace(start, batch=contender.batch)
    tried = _try(contender, ground, [replace(start, batch=batch) for batch in BATCHES[contender.runs]])
    best = max(tried, key=lambda task: tried[task])
    others = {
        "daft": [replace(best, threads=None), replace(best, decode_in_udf=True)],
        "dataloader": [replace(best, loaders=1), replace(best, threads=1), replace(best, threads=1, batch=1)],
    }.get(contender.runs, [])  # torch's default first: what a process has set, it keeps
    tried |= _try(contender, ground, others) if others else {}
    best = max(tried, key=lambda task: tried[task])
    found.tried[contender.name] = {describe(contender, task): round(rate, 3) for task, rate in tried.items()}
    click.echo(
        f"search {contender.title:28} {tried[best]:6.2f} images/s with {describe(contender, best)}, the best of {len(tried)}"
    )
    return best


def describe(contender: Contender, task: Task) -> str:
    """The settings of a contender in words."""
    threads = "torch's default" if task.threads is None else str(task.threads)
    where = {
        "ray": f"{task.workers} actors",
        "daft": f"{task.workers} processes, decoding in the UDF" if task.decode_in_udf else f"{task.workers} threads",
        "dataloader": f"{task.loaders} loader{'s' if task.loaders > 1 else ''}",
        "daft-worker": f"{task.workers} processes",
    }[contender.runs]
    torch = "" if contender.runs == "daft-worker" else f", torch threads {threads}"
    return f"batch {task.batch}, {where}{torch}"


def _try(contender: Contender, ground: Ground, settings: Sequence[Task]) -> dict[Task, float]:
    """Images a second of each setting, once, one after the other in one process."""
    with ExitStack() as stack:
        counts = [max(MIN_SEARCHED, 2 * each.workers * each.batch) for each in settings]
        tasks = [stack.enter_context(ground.task(count, each)) for count, each in zip(counts, settings, strict=True)]
        _, events = run_tasks(contender, tasks, ground.log(contender))
    return {
        each: steady_rate(done, contender.rate_workers(each)) or rough_rate(done)
        for each, done in zip(settings, events, strict=True)
    }


def _run(contender: Contender, ground: Ground, found: Race, reference: Masks) -> Run:
    """One run of the race; its masks are checked before its speed is told."""
    images = ground.images if contender.is_recipe else FASTER * ground.images
    with ground.task(images, found.settings.get(contender.name)) as task:
        seconds, (events,) = run_tasks(contender, [task], ground.log(contender))
        masks = read_masks(contender.title, Path(task.out), map(image_id, task.paths()))
        agreement(contender.title, masks, reference, MIN_AGREEMENT_OF_ENGINES if contender.is_recipe else 1.0)
        if not contender.is_recipe and found.digests.setdefault(images, digest(masks)) != digest(masks):
            raise PeerFailed(f"{contender.title}: its masks are not those of the runs before it")
        return Run(images, steady_rate(events, contender.rate_workers(task)), seconds)


def digest(masks: Masks) -> str:
    """SHA-256 of ids, sizes and pixels, in the order of the ids."""
    total = hashlib.sha256()
    for key in sorted(masks):
        total.update(f"{key} {masks[key].shape} ".encode() + masks[key].tobytes())
    return total.hexdigest()
