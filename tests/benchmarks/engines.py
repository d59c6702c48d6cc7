"""`models`: the way from the resized image to its label map, in torch and in maskfleet; then each network alone.

One thread, interleaved rounds, the first photograph. Torch runs as its users write it, at its best batch, contiguous and
channels_last. OpenVINO runs as in the job, one image at a time. The networks alone are measured like `maskfleet bench models`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from jobs.bench import photographs
from jobs.bench_models import COLUMNS, Measured, Tensors, measure, prepared, seconds_per_call, weights_of
from jobs.command import run_job
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model.cpu import PRECISIONS, has_bf16
from pipeline.model.loading import load_engine
from pipeline.model.weights import TORCHVISION_PRESET
from pipeline.model.zoo import DEFAULT_MODEL, ZOO, architecture, count_classes
from tests.benchmarks import common

if TYPE_CHECKING:
    import torch

BATCHES = (1, 4, 16)
TRY_S = 12.0  # a batch that would take longer than this is not tried
EAGER, CHANNELS_LAST = "torch as written", "torch as written, channels_last"
Pixels = npt.NDArray[np.uint8]


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(list(ZOO)), help="A network; repeat it [default: all].")
@common.with_photos
@common.with_short_side
@common.with_rounds
@click.option("--images", default=6, show_default=True, help="Photographs for the agreement of OpenVINO with torch.")
@click.option("--stretch-s", default=1.0, show_default=True, help="Seconds that one measurement takes at least.")
@common.with_out
def main(models: tuple[str, ...], **options: Any) -> None:
    """Measure engines and networks alone: images/s per core against torch as its documentation writes it."""
    run_job(lambda: _models(models or tuple(ZOO), **options), goes_on=False)


def _models(
    names: Sequence[str], photos: Sequence[str], short_side: int, rounds: int, images: int, stretch_s: float, out: str
) -> int:
    upright = [decode(data, max_source_pixels=1 << 30).image for _, data in photographs(photos)]
    pixels_HWC = resize(upright[0], short_side, max_pixels=1 << 30)
    ways, batches = label_ways(pixels_HWC, stretch_s)
    found: list[dict[str, float]] = []
    for values in common.interleaved(ways, rounds):
        found.append(values)
        click.echo(f"round {len(found)} of {rounds}", err=True)
    networks = []
    for name in names:
        networks.append(measure(name, common.spread(upright, images), short_side, rounds, stretch_s))
        click.echo(f"{name}: {' | '.join(networks[-1].row()[2:5])} images/s", err=True)
    common.publish(_report(found, batches, networks, pixels_HWC), out)
    return 0


def label_ways(pixels_HWC: Pixels, stretch_s: float) -> tuple[dict[str, Callable[[], float]], dict[str, int]]:
    """The ways from this image to its label map with the default model; the best batch of each way in torch.

    Each way is a function that measures seconds per image.
    """
    tensors, (height, width) = weights_of(DEFAULT_MODEL), pixels_HWC.shape[:2]
    ways: dict[str, Callable[[], float]] = {}
    batches = {}
    for way in (EAGER, CHANNELS_LAST):
        call = as_written(DEFAULT_MODEL, tensors, pixels_HWC, channels_last=way == CHANNELS_LAST)
        best = batches[way] = _best_batch(call)
        ways[way] = lambda call=call, best=best: seconds_per_call(partial(call, best), stretch_s) / best  # type: ignore[misc]
    network = prepared(DEFAULT_MODEL, "openvino", tensors)
    for precision in PRECISIONS[: 1 + has_bf16()]:
        engine = load_engine(replace(network, precision=precision))
        ways[f"maskfleet {precision}"] = lambda engine=engine: seconds_per_call(  # type: ignore[misc]
            lambda: labels_of(engine, engine.logits(pixels_HWC), height, width), stretch_s
        )
    return ways, batches


def as_written(name: str, tensors: Tensors, pixels_HWC: Pixels, *, channels_last: bool) -> "Callable[[int], torch.Tensor]":
    """The code of torchvision's documentation, in eager float32: the preset's transforms, the whole model, `argmax`.

    The result is a function: batch size N -> label maps (N, H, W) of N copies of this image.
    """
    import torch
    from torchvision.transforms._presets import SemanticSegmentation

    torch.set_num_threads(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = architecture(name, count_classes(name, tensors))
    model.load_state_dict(tensors)
    model.eval().to(memory_format=layout)
    side = min(pixels_HWC.shape[:2])
    preprocess = SemanticSegmentation(resize_size=side, mean=TORCHVISION_PRESET.mean, std=TORCHVISION_PRESET.std)
    image_CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).contiguous()

    @torch.inference_mode()
    def call(batch: int) -> torch.Tensor:
        x_NCHW = preprocess(image_CHW.repeat(batch, 1, 1, 1)).contiguous(memory_format=layout)
        labels: torch.Tensor = model(x_NCHW)["out"].argmax(1)
        return labels

    return call


def _best_batch(call: Callable[[int], object]) -> int:
    seconds = {1: seconds_per_call(partial(call, 1), 0)}
    for batch in BATCHES[1:]:
        if batch * seconds[1] <= TRY_S:
            seconds[batch] = seconds_per_call(partial(call, batch), 0) / batch
    return min(seconds, key=lambda batch: seconds[batch])


def _report(
    found: Sequence[Mapping[str, float]], batches: Mapping[str, int], networks: Sequence[Measured], pixels_HWC: Pixels
) -> common.Report:
    rows = []
    for way in found[0]:
        ratios = [str(common.ratio(found, base, way)) if base != way else "-" for base in (EAGER, CHANNELS_LAST)]
        speed = 1 / median(values[way] for values in found)
        rows.append([way, str(batches.get(way, 1)), f"{speed:.3g}", *ratios])
    columns = (f"{DEFAULT_MODEL}, image to label map", "batch", "images/s per core", f"/ {EAGER}", "/ channels_last")
    height, width = pixels_HWC.shape[:2]
    values: dict[str, Any] = {"seconds_per_image": found, "batches": batches, "networks": [asdict(each) for each in networks]}
    return common.Report(
        name="models", title=f"Networks, one thread, {width}x{height}, {len(found)} interleaved rounds",
        grids=[common.Grid(columns, rows), common.Grid(COLUMNS, [network.row() for network in networks])],
        notes=[
            "As written: the preset's transforms, torchvision's whole model and `argmax`, eager float32, no gradients. Ours: the "
            "same label map, with confidence and statistics besides. Both from the resized uint8 image, torch at the best "
            f"batch of {', '.join(map(str, BATCHES))} (a batch that would take over {TRY_S:.0f} s is not tried).",
            "Ratios are medians of interleaved pairs, with a bootstrapped 95 % interval.",
            "Networks alone: images/s per core of the engines of maskfleet, from the resized image to logits at the network's "
            f"stride. {DEFAULT_MODEL} has the bundled weights, the others seeded random weights: the speed of a network does not "
            "depend on the values. Published: torchvision's pull requests and documentation.",
            *([] if has_bf16() else ["bf16 was not measured: this processor has no bf16 instructions."]),
        ],
        values={"size": [width, height], **values}, versions=("torchvision",),
    )  # fmt: skip
