"""`bench models`: every network of the zoo on every engine: size, speed, agreement, and mIoU where there is ground truth.

One thread, interleaved rounds, images of one size, torch at its best batch, contiguous and channels_last; OpenVINO runs as in
the job, image by image. Twice over: from the resized image to its label map, in torch as its users write it; and the network
alone, in torch without the last interpolation and on tensors that are ready.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.benchmarks.agreement import Agreement, Judged, agreement, judge
from jobs.benchmarks.machine import machine
from jobs.benchmarks.models_report import LABELS, Measured, Way, report_of, speed_chart
from jobs.benchmarks.networks import CLASSES, Tensors, prepared, torch_as_written, torch_call, weights_of
from jobs.benchmarks.pairs import interleaved
from jobs.benchmarks.photographs import named_photographs, spread
from jobs.benchmarks.report import OUT, need_altair, publish
from jobs.benchmarks.truth import truth_of
from jobs.command import run_job
from pipeline.errors import UsageError
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model.cpu import PRECISIONS, has_bf16
from pipeline.model.engine import Engine
from pipeline.model.loading import load_engine
from pipeline.model.zoo import DEFAULT_MODEL, ZOO

BATCHES = (1, 4, 16)
TRY_S = 12.0  # a batch that would take longer is not tried
HEAVY_S = 1.0  # an image of a network that takes longer: one photograph is enough for its agreement

Named = tuple[str, Image.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The flags."""

    short_side: int
    rounds: int
    images: int
    stretch_s: float
    truth: tuple[str, ...]


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(list(ZOO)), help="Networks [default: all].")
@click.option("--photos", "folders", metavar="FOLDER", multiple=True, help="JPEGs [default: the bundled photographs].")
@click.option("--truth", metavar="FOLDER", multiple=True, help="Holds masks/<stem>.png, 255 = void: mIoU of the default model.")
@click.option("--short-side", default=520, show_default=True, help="Pixels.")
@click.option("--rounds", default=5, show_default=True, help="Interleaved rounds.")
@click.option("--images", default=6, show_default=True, help="Photographs for the agreement of OpenVINO with torch.")
@click.option("--stretch-s", default=1.0, show_default=True, help="Least seconds of one measurement.")
@click.option("--out", default=OUT, show_default=True, metavar="FOLDER")
def main(
    models: tuple[str, ...], folders: tuple[str, ...], truth: tuple[str, ...], short_side: int, rounds: int, images: int,
    stretch_s: float, out: str,
) -> None:  # fmt: skip
    """Measure the networks alone: parameters, multiply-adds, images/s a core, agreement with torch."""
    options = Options(short_side=short_side, rounds=rounds, images=images, stretch_s=stretch_s, truth=truth)
    names = [DEFAULT_MODEL, *(name for name in ZOO if name in (models or ZOO) and name != DEFAULT_MODEL)]  # the base of ratios
    run_job(lambda: _models(names, folders, options, out))


def _models(names: Sequence[str], folders: Sequence[str], options: Options, out: str) -> int:
    need_altair()
    found = machine()
    photographs = [(name, decode(data, max_source_pixels=1 << 30).image) for name, data in named_photographs(folders)]
    pixels_HWC = _commonest(photographs, options.short_side)
    judged = _judge(photographs, options) if options.truth else {}
    measured = [_prepare(name, pixels_HWC, photographs, options) for name in names]
    runs = {f"{one.name} {name}": way.seconds for one in measured for name, way in one.ways.items()}
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()
    for values in interleaved(runs, options.rounds):
        rounds.append(values)
        click.echo(f"round {len(rounds)} of {options.rounds}: {time.perf_counter() - started:.0f} s", err=True)
    height, width = pixels_HWC.shape[:2]
    report = report_of(measured, rounds, judged, found, (width, height), options.short_side)
    publish(report, out, {"speed": speed_chart(report)})
    return 0


def _commonest(photographs: Sequence[Named], short_side: int) -> npt.NDArray[np.uint8]:
    """A photograph of the commonest size at this short side, uint8 (H, W, 3): batches need one size."""
    resized = [resize(image, short_side, max_pixels=1 << 30) for _, image in photographs]
    ((shape, _),) = Counter(pixels.shape for pixels in resized).most_common(1)
    return next(pixels for pixels in resized if pixels.shape == shape)


def _prepare(name: str, pixels_HWC: npt.NDArray[np.uint8], photographs: Sequence[Named], options: Options) -> Measured:
    """Load a network on every engine, find torch's best batches, compare the labels."""
    started = time.perf_counter()
    tensors = weights_of(name)
    ways = _torch_ways(name, tensors, pixels_HWC, options.stretch_s)
    converted = prepared(name, "openvino", tensors)
    engines = {precision: load_engine(replace(converted, precision=precision)) for precision in _precisions()}
    height, width = pixels_HWC.shape[:2]
    for precision, engine in engines.items():
        run = _calls(lambda engine=engine: engine.logits(pixels_HWC), 1, options.stretch_s)  # type: ignore[misc]
        ways[f"openvino {precision}"] = Way(run, 1)
        labelled = _calls(
            lambda engine=engine: labels_of(engine, engine.logits(pixels_HWC), height, width),  # type: ignore[misc]
            1, options.stretch_s,
        )  # fmt: skip
        ways[f"openvino {precision}{LABELS}"] = Way(labelled, 1)
    reference = load_engine(prepared(name, "torch", tensors))
    heavy = _timed_warm(lambda: engines["fp32"].logits(pixels_HWC)) > HEAVY_S
    images = [image for _, image in spread(photographs, 1 if heavy else options.images)]
    agreements: dict[str, Agreement] = {
        precision: agreement(engine, reference, images, options.short_side) for precision, engine in engines.items()
    }
    click.echo(f"{name}: ready in {time.perf_counter() - started:.0f} s", err=True)
    return Measured(name, ways, agreements)


def _precisions() -> tuple[str, ...]:
    return PRECISIONS if has_bf16() else ("fp32",)


def _torch_ways(name: str, tensors: Tensors, pixels_HWC: npt.NDArray[np.uint8], stretch_s: float) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for layout in ("contiguous", "channels_last"):
        last = layout == "channels_last"
        written = torch_as_written(name, tensors, pixels_HWC, channels_last=last)
        ways[f"torch fp32 {layout}{LABELS}"] = _at_best_batch(written, stretch_s)
        for precision in _precisions() if last else ("fp32",):
            call = torch_call(name, tensors, pixels_HWC, channels_last=last, precision=precision)
            ways[f"torch {precision} {layout}"] = _at_best_batch(call, stretch_s)
    return ways


def _at_best_batch(call: Callable[[int], object], stretch_s: float) -> Way:
    tries = {1: _timed_warm(lambda: call(1))}
    for batch in BATCHES[1:]:
        if batch * tries[1] <= TRY_S:
            tries[batch] = _timed(lambda batch=batch: call(batch)) / batch  # type: ignore[misc]
    best = min(tries, key=lambda batch: tries[batch])
    return Way(_calls(lambda: call(best), best, stretch_s), best, tries)


def _calls(call: Callable[[], object], images: int, stretch_s: float) -> Callable[[], float]:
    """A measurement: seconds an image, over as many calls as fill a stretch."""

    def seconds() -> float:
        calls, started = 0, time.perf_counter()
        while True:
            call()
            calls += 1
            if (elapsed := time.perf_counter() - started) >= stretch_s:
                return elapsed / (calls * images)

    return seconds


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _timed_warm(call: Callable[[], object]) -> float:
    """Of the second call; of the first, where that takes so long that warming up hardly shows."""
    first = _timed(call)
    return first if first > HEAVY_S else _timed(call)


def _judge(photographs: Sequence[Named], options: Options) -> dict[str, Judged]:
    """The default model with the bundled weights, on every engine and precision, against the ground truth."""
    pairs = [(image, truth) for name, image in photographs if (truth := truth_of(name, options.truth)) is not None]
    if not pairs:
        raise UsageError(f"--truth: no masks/<stem>.png for any photograph in {', '.join(options.truth)}")
    tensors = weights_of(DEFAULT_MODEL)
    engines: dict[str, Engine] = {
        f"{engine} {precision}": load_engine(replace(network, precision=precision))
        for engine in ("torch", "openvino")
        for network in [prepared(DEFAULT_MODEL, engine, tensors)]
        for precision in _precisions()
    }
    click.echo(f"judging {len(pairs)} images", err=True)
    return judge(engines, pairs, options.short_side, CLASSES)


if __name__ == "__main__":
    main()
