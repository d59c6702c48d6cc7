"""The race as a report: a table, the goals, what was tried, and a bar chart."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import altair as alt

from jobs.benchmarks.pairs import Ratio, ratio
from jobs.benchmarks.report import Grid, Report
from pipeline.labels.prepare import prepare
from tests.peers.contenders import CONTENDERS, MASKFLEET, Contender, Kind
from tests.peers.measure import FASTER, Race, describe, race
from tests.peers.our_worker import network_request
from tests.peers.task import Task

GOALS = {  # of issue 7: times as fast as
    "fp32": {"ray-16": 3.5, "ray": 1.8, "daft-worker": 1.0},
    "bf16": {"ray-16": 6.0, "ray": 2.8, "daft-worker": 1.0},
}
COLOURS: dict[Kind, str] = {
    "recipe of the documentation": "#9aa5b1",
    "our worker, another scheduler": "#4c9f9b",
    "maskfleet": "#d1602f",
}


def measure(
    data: Sequence[bytes], machine: dict[str, Any], *, names: Sequence[str], images: int, pairs: int, short_side: int,
    precision: str, out: str,
) -> tuple[Report, dict[str, alt.Chart | alt.LayerChart]]:  # fmt: skip
    """Race the contenders of these names over these photographs -> the report and its chart."""
    chosen = [contender for contender in CONTENDERS if contender.name in names]
    able = [contender for contender in chosen if not contender.missing]
    prepare(network_request(short_side, precision))  # converted once, and then in the cache of all
    template = Task(photos="", out="", events="", workers=machine["cores"], short_side=short_side, precision=precision)
    found = race(able, data, images, pairs, template, Path(out).absolute() / "peers-logs")
    ratios = {name: ratio(found.rounds, MASKFLEET, name) for name in found.runs if MASKFLEET in found.runs and name != MASKFLEET}
    report = Report(
        name="peers",
        title=f"maskfleet and its peers, {precision}, {images} photographs a run of a recipe, {pairs} interleaved rounds",
        machine=machine | {"versions": machine["versions"] | _versions(able)},
        grids=(_speeds(chosen, found, ratios), *_goals(ratios if found.steady else {}, precision), *_search(able, found)),
        notes=_notes(able, found, images),
        values={
            "task": {"images": images, "images_of_ours": FASTER * images, "pairs": pairs, "short_side": short_side,
                     "precision": precision, "photographs": len(data)},
            "runs": {name: [asdict(run) for run in runs] for name, runs in found.runs.items()},
            "steady": found.steady, "images_per_s": found.rounds,
            "maskfleet_ratio": {name: asdict(each) for name, each in ratios.items()},
            "settings": {each.name: describe(each, found.settings[each.name]) for each in able if each.name in found.settings},
            "tried": found.tried, "agreement": found.agreement,
            "not_measured": [contender.name for contender in chosen if contender.missing],
        },
    )  # fmt: skip
    return report, {"speed": _chart(able, found)}


def _versions(contenders: Sequence[Contender]) -> dict[str, str]:
    return {name: version(name) for name in ("torchvision", *sorted({each.needs for each in contenders if each.needs}))}


def _speeds(chosen: Sequence[Contender], found: Race, ratios: dict[str, Ratio]) -> Grid:
    rows = []
    for contender in chosen:
        if contender.missing:
            rows.append((contender.title, "not measured: pip install 'maskfleet[peers]', or make peers", "", "", "", ""))
            continue
        runs = found.runs[contender.name]
        speeds = [each[contender.name] for each in found.rounds]
        task = found.settings.get(contender.name)
        setting = describe(contender, task) if task else "batch 1, a process a core, 1 thread"
        against = str(ratios[contender.name]) if contender.name in ratios else "-"
        besides = f"{median(run.besides_s or 0.0 for run in runs):.1f}" if found.steady else "-"
        rows.append((contender.title, setting, f"{median(speeds):.2f}", f"{min(speeds):.2f}-{max(speeds):.2f}", besides, against))
    return Grid(("", "at its best with", "images/s", "range", "s besides", "maskfleet's job is times as fast (95 %)"), rows)


def _goals(ratios: dict[str, Ratio], precision: str) -> list[Grid]:
    titles = {contender.name: contender.title for contender in CONTENDERS}
    goals = {name: least for name, least in GOALS[precision].items() if name in ratios}
    rows = [
        (
            f"{titles[name]}, {precision}",
            f">= {least:.1f}x",
            str(ratios[name]),
            "met" if ratios[name].median >= least else "not met",
        )
        for name, least in goals.items()
    ]
    return [Grid(("goal against", "at least", "measured", ""), rows)] if rows else []


def _search(able: Sequence[Contender], found: Race) -> list[Grid]:
    rows = [
        (contender.title, setting, f"{rate:.2f}")
        for contender in able
        for setting, rate in found.tried.get(contender.name, {}).items()
    ]
    return [Grid(("looked for the best of", "setting", "images/s, once"), rows)] if rows else []


def _notes(able: Sequence[Contender], found: Race, images: int) -> tuple[str, ...]:
    square, native = found.pixels
    checked = "; ".join(f"{100 * share:.4f} % of {name} as {found.against[name]}" for name, share in found.agreement.items())
    notes = [
        "images/s: of all workers together, from the end of a worker's first batch to the end of its last. s besides: the rest "
        "of the process's time (interpreter, Ray, Daft, loading, first batch, end).",
        f"Recipes: torchvision in eager float32 on squares, {square:,.0f} pixels an image, masks of that size. Ours: the "
        f"photograph's own aspect, {native:,.0f} pixels on average ({native / square:.2f} times as many), masks of the "
        "photograph's size, with statistics. All write 8-bit index PNGs, in Parquet or as files, to the local disk.",
        f"Ours label {FASTER} times as many photographs in a run ({FASTER * images} to {images}): all runs last about as long.",
        f"Correct first: {checked}. In every run each image was there exactly once, with those labels.",
    ]
    if any(contender.runs == "ray" for contender in able):
        notes.append("Ray Data has one CPU more than workers: with an actor on every CPU, its reads never start.")
    if not found.steady:
        notes.append(
            "Too few images for a steady state: all images/s include start-up and end, and no goal is judged. Give --images."
        )
    return tuple(notes)


def _chart(able: Sequence[Contender], found: Race) -> alt.LayerChart:
    rows = []
    for contender in able:
        speeds = [each[contender.name] for each in found.rounds]
        rows.append(
            {
                "name": contender.title,
                "kind": contender.kind,
                "speed": round(median(speeds), 2),
                "low": min(speeds),
                "high": max(speeds),
            }
        )
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=240)))
    present = {kind: colour for kind, colour in COLOURS.items() if any(row["kind"] == kind for row in rows)}
    scale = alt.Scale(domain=list(present), range=list(present.values()))
    kinds = alt.Color("kind:N", title=None, legend=alt.Legend(orient="bottom"), scale=scale)
    room = alt.Scale(domain=[0, 1.12 * max((max(each.values()) for each in found.rounds), default=1.0)])  # for the figures
    bars = base.mark_bar().encode(x=alt.X("speed:Q", title="images/s, median; line: lowest and highest", scale=room), color=kinds)
    ranges = base.mark_rule(color="#333333").encode(x="low:Q", x2="high:Q")
    texts = base.mark_text(align="left", dx=4, color="#333333").encode(x="high:Q", text=alt.Text("speed:Q", format=".1f"))
    chart: alt.LayerChart = (bars + ranges + texts).properties(
        width=520, height=alt.Step(26), title="Photograph to mask, all cores"
    )
    return chart
