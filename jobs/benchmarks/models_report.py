"""What `bench models` found, as tables, JSON and a plot: the seed table measured here beside the published one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from jobs.benchmarks.agreement import Agreement, Judged
from jobs.benchmarks.networks import PUBLISHED, multiply_adds, parameters
from jobs.benchmarks.pairs import Ratio, ratio
from jobs.benchmarks.report import Grid, Report
from pipeline.model.cpu import has_bf16
from pipeline.model.zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    import altair as alt

EAGER, CHANNELS_LAST, BASE = "torch fp32 contiguous", "torch fp32 channels_last", "openvino fp32"
LABELS = " labels"  # the same, from the image to its label map
GOALS = {"openvino fp32": 1.9, "openvino bf16": 4.0}  # times torch as its users write it, for the default model
NOTHING = "-"
NO_BF16 = "no bf16 here"


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run: a measurement (seconds an image), its batch, and what other batches took, seconds an image."""

    seconds: Callable[[], float]
    batch: int
    tries: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """A network: its ways by name, and OpenVINO's agreement with torch float32 by precision."""

    name: str
    ways: dict[str, Way]
    agreements: dict[str, Agreement]


def report_of(
    measured: Sequence[Measured], rounds: list[dict[str, float]], judged: Mapping[str, Judged], found: dict[str, Any],
    size: tuple[int, int], short_side: int,
) -> Report:  # fmt: skip
    """`rounds`: seconds an image by "<network> <way>". `size`: (width, height) of the images that were timed."""
    networks = {one.name: _values(one, rounds, size) for one in measured}
    grids = [_labels_grid(networks), _speed_grid(networks), _ratio_grid(networks)]
    if judged:
        grids.append(_truth_grid(judged))
    return Report(
        name="models", title=f"Networks, one thread, {size[0]}x{size[1]}, {len(rounds)} interleaved rounds", machine=found,
        grids=tuple(grids), notes=tuple(_notes(networks, judged, short_side)),
        values={
            "short_side": short_side, "size": list(size), "rounds": len(rounds), "networks": networks,
            "truth": {name: asdict(one) for name, one in judged.items()},
        },
    )  # fmt: skip


def _values(one: Measured, rounds: list[dict[str, float]], size: tuple[int, int]) -> dict[str, Any]:
    def against(way: str, base: str) -> dict[str, Any] | None:
        known = all(name in rounds[0] for name in (way, base))
        return asdict(ratio(rounds, way, base)) if known else None

    published = PUBLISHED.get(one.name)
    ways = {
        name: {
            "images_per_s": 1 / median(values[f"{one.name} {name}"] for values in rounds), "batch": way.batch,
            "seconds_an_image": [values[f"{one.name} {name}"] for values in rounds], "seconds_by_batch": dict(way.tries),
            "times_default_model": against(f"{one.name} {name}", f"{DEFAULT_MODEL} {name}"),
        }
        for name, way in one.ways.items()
    }  # fmt: skip
    ours = [name for name in ways if name.startswith("openvino")]
    return {
        "parameters": parameters(one.name),
        "multiply_adds": multiply_adds(one.name, size[1], size[0]),
        "published": asdict(published) if published else None,
        "ways": ways,
        "faster_than_eager": {name: against(f"{one.name} {_like(EAGER, name)}", f"{one.name} {name}") for name in ours},
        "faster_than_channels_last": {
            name: against(f"{one.name} {_like(CHANNELS_LAST, name)}", f"{one.name} {name}") for name in ours
        },
        "agreement": {name: {**asdict(found), "percent": found.percent} for name, found in one.agreements.items()},
    }


def _like(base: str, way: str) -> str:
    """The way of torch that a way of ours is to be compared with: to label maps, or the network alone."""
    return base + LABELS if way.endswith(LABELS) else base


def _labels_grid(networks: Mapping[str, dict[str, Any]]) -> Grid:
    """From the resized image to its label map; of trained weights alone: a map of random ones is all borders."""
    columns = (
        "from image to label map, images/s a core", "torch as written (batch)", "channels_last", "maskfleet fp32", "/ as written",
        "/ channels_last", "maskfleet bf16", "/ as written in fp32",
    )  # fmt: skip
    values, fast, bf16 = networks[DEFAULT_MODEL], BASE + LABELS, "openvino bf16" + LABELS
    ways = values["ways"]
    row = [DEFAULT_MODEL, *(f"{_per_s(ways[way + LABELS])} ({ways[way + LABELS]['batch']})" for way in (EAGER, CHANNELS_LAST))]
    row += [
        _per_s(ways[fast]),
        *(str(Ratio(**values[than][fast])) for than in ("faster_than_eager", "faster_than_channels_last")),
    ]
    row += [_per_s(ways[bf16]), str(Ratio(**values["faster_than_eager"][bf16]))] if bf16 in ways else [NO_BF16, NOTHING]
    return Grid(columns, [row])


def _speed_grid(networks: Mapping[str, dict[str, Any]]) -> Grid:
    columns = (
        "network alone, images/s a core", "M parameters", "GMAC", "torch eager (batch)", "torch channels_last", "OpenVINO fp32",
    )  # fmt: skip
    rows = []
    for name, values in networks.items():
        ways = values["ways"]
        row = [name, f"{values['parameters'] / 1e6:.2f}", f"{values['multiply_adds'] / 1e9:.2f}"]
        row += [f"{_per_s(ways[way])} ({ways[way]['batch']})" for way in (EAGER, CHANNELS_LAST)]
        rows.append([*row, _per_s(ways[BASE]), *(_per_s(ways[way]) if way in ways else NO_BF16 for way in _BF16)])
    return Grid((*columns, "torch bf16", "OpenVINO bf16"), rows)


_BF16 = ("torch bf16 channels_last", "openvino bf16")


def _per_s(way: Mapping[str, Any]) -> str:
    return f"{way['images_per_s']:.3g}"


def _ratio_grid(networks: Mapping[str, dict[str, Any]]) -> Grid:
    columns = (
        "network", "time / LR-ASPP: torch", "OpenVINO", "published", "published mIoU, pixel accuracy", "OpenVINO / torch eager",
        "OpenVINO / channels_last", "labels equal to torch's",
    )  # fmt: skip
    base = PUBLISHED[DEFAULT_MODEL].cpu_seconds
    rows = []
    for name, values in networks.items():
        published, ways = values["published"], values["ways"]
        same = values["agreement"]["fp32"]
        rows.append(
            [
                name,
                *(f"{ways[way]['times_default_model']['median']:.2f}" for way in (EAGER, BASE)),
                f"{published['cpu_seconds'] / base:.2f}" if published else NOTHING,
                f"{published['miou']}, {published['pixel_accuracy']}" if published else NOTHING,
                str(Ratio(**values["faster_than_eager"][BASE])),
                str(Ratio(**values["faster_than_channels_last"][BASE])),
                f"{same['percent']:.4f} % ({same['images']} image{'s' * (same['images'] != 1)})",
            ]
        )
    return Grid(columns, rows)


def _truth_grid(judged: Mapping[str, Judged]) -> Grid:
    base = judged["torch fp32"]
    rows = [
        [name, f"{one.miou:.3f}", f"{one.miou - base.miou:+.3f}", f"{one.pixel_accuracy:.3f}"] for name, one in judged.items()
    ]
    rows += [[f"{engine} bf16", NO_BF16, NOTHING, NOTHING] for engine in ("torch", "openvino") if f"{engine} bf16" not in judged]
    return Grid((f"{DEFAULT_MODEL}, bundled weights", "mIoU, %", "change, points", "pixel accuracy, %"), rows)


def _notes(networks: Mapping[str, dict[str, Any]], judged: Mapping[str, Judged], short_side: int) -> list[str]:
    notes = [
        "As written: the preset's transforms, torchvision's whole model and `argmax`, eager, contiguous, no gradients. "
        "maskfleet: the same label map, with confidence and statistics besides. Both from the resized uint8 image, torch at "
        "the best batch of 1, 4 and 16 (a batch that would take over 12 s is not tried).",
        "Network alone: torch on normalised tensors that are ready, to logits at the network's stride, without torchvision's "
        "last interpolation; OpenVINO from uint8, normalisation included.",
        "Ratios are medians of interleaved pairs, with a bootstrapped 95 % interval. Published: CPU seconds an image, mIoU and "
        "pixel accuracy of torchvision's pull requests and documentation.",
        f"{DEFAULT_MODEL} has the bundled weights, the others seeded random ones: the speed of a network does not depend on the "
        "values, that of the label pass does (a random map is all borders), so it is shown for trained weights only. Labels are "
        "compared at the photographs' own size; random weights leave more pixels near a tie than trained ones.",
    ]
    notes += _goals(networks[DEFAULT_MODEL])
    if not has_bf16():
        notes.append("bf16 was not measured: this processor has no bf16 instructions.")
    if judged:
        notes.append(f"mIoU: {next(iter(judged.values())).images} images with ground truth, short side {short_side}.")
    few = [name for name, values in networks.items() if values["agreement"]["fp32"]["classes"] < 2]
    if few:
        notes.append(f"Only one class was seen in the photographs by {', '.join(few)}: their agreement says little.")
    return notes


def _goals(values: Mapping[str, Any]) -> list[str]:
    """What was asked of the default model, and whether it was met."""
    found = {way: values["faster_than_eager"].get(way + LABELS) for way in GOALS}
    return [
        f"{DEFAULT_MODEL}, {way}: {Ratio(**found[way])} times torch as written in fp32, asked {goal}: "
        + ("met." if found[way]["median"] >= goal else "not met.")
        for way, goal in GOALS.items()
        if found[way] is not None
    ]


def speed_chart(report: Report) -> "alt.LayerChart":
    """Images/s a core here against the published mIoU; a network without published figures is left out."""
    import altair as alt

    shown = {EAGER: "torch eager", BASE: "OpenVINO fp32", "openvino bf16": "OpenVINO bf16"}
    points = [
        {"network": name, "images/s a core": way["images_per_s"], "mIoU": values["published"]["miou"], "engine": shown[key]}
        for name, values in report.values["networks"].items()
        for key, way in values["ways"].items()
        if values["published"] and key in shown
    ]
    base = alt.Chart({"values": points}, width=560, height=320).encode(
        x=alt.X("images/s a core:Q", scale=alt.Scale(type="log", padding=30), title="images/s a core, measured here (log)"),
        y=alt.Y("mIoU:Q", scale=alt.Scale(zero=False, padding=24), title="published mIoU, % of COCO val2017"),
    )
    dots = base.mark_point(filled=True, size=90).encode(color=alt.Color("engine:N", title=None))
    below = ["fcn_mobilenet_v3_large"]  # 0.1 points under LR-ASPP: the names would cover each other
    labelled = alt.FieldEqualPredicate(field="engine", equal=shown[EAGER])
    here = alt.FieldOneOfPredicate(field="network", oneOf=below)
    chart: alt.LayerChart = dots
    for where, dy in ((here, 16), ({"not": here}, -10)):
        names = base.mark_text(align="left", dx=7, dy=dy, fontSize=11).encode(text="network:N")
        chart += names.transform_filter({"and": [labelled, where]})
    return chart
