"""Before the network: milliseconds of decode and resize, whose pixels are whose, and what `--fast-decode` does to labels.

`python -m jobs.benchmarks.decoding --photos FOLDER --truth FOLDER`: photographs as they are and made 12 megapixels large, one
thread, interleaved rounds. FOLDER of --truth holds masks/<stem>.png of the photographs (255 = void).
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from jobs.benchmarks.decoders import BASE, Decoder, decoders
from jobs.benchmarks.fast_decode import agreement, agreement_grid
from jobs.benchmarks.large import KINDS, MEGAPIXELS, NOISE, QUALITY, enlarged
from jobs.benchmarks.machine import machine
from jobs.benchmarks.pairs import interleaved, ratio
from jobs.benchmarks.photographs import photographs, spread
from jobs.benchmarks.report import OUT, Grid, Report, need_altair, publish
from jobs.command import run_job

if TYPE_CHECKING:
    import altair as alt

SMALL = "as they are"


@click.command()
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs [default: the bundled photographs].")
@click.option("--truth", metavar="FOLDER", multiple=True, help="Holds masks/<stem>.png of the photographs.")
@click.option("--out", metavar="FOLDER", default=OUT, show_default=True)
@click.option("--rounds", default=7, show_default=True, help="Interleaved rounds of each kind of photograph.")
@click.option("--small", default=24, show_default=True, help="Photographs as they are in a round.")
@click.option("--large", default=2, show_default=True, help="12-megapixel photographs in a round.")
@click.option("--labelled", default=24, show_default=True, help="Photographs whose labels are compared; 0: none.")
@click.option("--short-side", default=520, show_default=True)
def main(**options: Any) -> None:
    """Measure what comes before the network."""
    run_job(lambda: _decoding(**options))


def _decoding(
    photos: tuple[str, ...], truth: tuple[str, ...], out: str, rounds: int, small: int, large: int, labelled: int, short_side: int
) -> int:
    need_altair()
    found, data = machine(), photographs(photos)
    candidates = decoders(short_side)
    rows = list(agreement(photos, truth, labelled, short_side)) if labelled else []
    batches = {SMALL: spread(data, small)}
    for kind in KINDS:
        batches[kind.name] = [enlarged(photograph, kind, seed) for seed, photograph in enumerate(spread(data, large))]
    speed = {}
    for name, encoded in batches.items():
        click.echo(f"photographs {name}: {len(encoded)}, {sum(map(len, encoded)) // len(encoded) >> 10} KiB on average")
        speed[name] = _speed(candidates, encoded, rounds)
    grids = [_speed_grid(name, figures) for name, figures in speed.items()] + ([agreement_grid(rows)] if rows else [])
    notes = [
        f"Large photographs are small ones at {MEGAPIXELS} megapixels: Lanczos, gray noise of {NOISE:g} levels, JPEG {QUALITY}.",
        "Ratio: decode + resize of the way / of Pillow, median of pairs with its 95 % interval; below 1 is faster.",
        f"Short side {short_side}; one thread each.",
    ]
    if not any("simplejpeg" in each.name for each in candidates):
        notes.append("simplejpeg is not installed: not measured.")
    report = Report(
        name="decoding", title="Before the network: decode and resize", machine=found, grids=tuple(grids), notes=tuple(notes),
        values={"speed": speed, "agreement": rows},
    )  # fmt: skip
    publish(report, out, {"speed": _chart(speed)})
    return 0


def _speed(candidates: Sequence[Decoder], encoded: Sequence[bytes], rounds: int) -> dict[str, dict[str, Any]]:
    """Of each way: medians in ms a photograph, the ratio to Pillow, and how its pixels differ from Pillow's."""
    steps: dict[str, list[tuple[float, float]]] = {each.name: [] for each in candidates}

    def run(each: Decoder) -> float:
        each.timed(encoded[0])  # not counted: memory that the one before gave back
        timed = [each.timed(data)[:2] for data in encoded]
        steps[each.name].append((sum(one for one, _ in timed) / len(timed), sum(two for _, two in timed) / len(timed)))
        return sum(steps[each.name][-1])

    def runner(each: Decoder) -> Callable[[], float]:
        return lambda: run(each)

    differences = {each.name: _difference(candidates[0], each, encoded) for each in candidates}  # warms up too
    measured = []
    for number, one in enumerate(interleaved({each.name: runner(each) for each in candidates}, rounds), 1):
        measured.append(one)
        click.echo(f"  round {number}: " + ", ".join(f"{name} {ms:.1f}" for name, ms in one.items()))
    return {
        name: {
            "decode_ms": median(one for one, _ in steps[name]),
            "resize_ms": median(two for _, two in steps[name]),
            "ratio": (found := ratio(measured, name, BASE)).median,
            "ratio_low": found.low,
            "ratio_high": found.high,
            **differences[name],
        }
        for name in steps
    }


def _difference(base: Decoder, other: Decoder, encoded: Sequence[bytes]) -> dict[str, float]:
    most = different = pixels = 0
    for data in encoded:
        expected, found = base.timed(data)[2].astype(np.int16), other.timed(data)[2].astype(np.int16)
        apart = np.abs(expected - found).max(axis=2)
        most, different, pixels = max(most, int(apart.max())), different + int((apart > 0).sum()), pixels + apart.size
    return {"most": most, "different": different / pixels}


def _speed_grid(photographs: str, figures: dict[str, dict[str, Any]]) -> Grid:
    rows = [
        (
            name, f"{each['decode_ms']:.1f}", f"{each['resize_ms']:.1f}",
            f"{each['ratio']:.2f} ({each['ratio_low']:.2f}-{each['ratio_high']:.2f})",
            "equal" if not each["most"] else f"{100 * each['different']:.2f} % differ, by {each['most']} at most",
        )
        for name, each in figures.items()
    ]  # fmt: skip
    return Grid((f"photographs {photographs}", "decode ms", "resize ms", "ratio to Pillow", "pixels"), rows)


def _chart(speed: dict[str, dict[str, dict[str, Any]]]) -> "alt.Chart":
    import altair as alt

    bars = [
        {"photographs": kind, "way": way, "step": step, "ms": figures[f"{step}_ms"]}
        for kind, ways in speed.items()
        for way, figures in ways.items()
        for step in ("decode", "resize")
    ]
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=bars))
        .mark_bar()
        .encode(
            x=alt.X("ms:Q", title="ms a photograph, one thread"),
            y=alt.Y("way:N", title=None, sort=None),
            color=alt.Color("step:N", title=None),
            row=alt.Row("photographs:N", title=None, sort=None),
        )
        .resolve_scale(x="independent")
    )
    return chart


if __name__ == "__main__":
    main()
