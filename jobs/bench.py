"""`bench models|pipeline`: what this machine gives. A checkout has more benchmarks: tests/benchmarks/README.md."""

import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click

from jobs.command import run_job
from jobs.segment import label
from pipeline.config import Precision, load_config
from pipeline.errors import UsageError
from pipeline.image.decode import decode
from pipeline.model.cpu import cpu_name, instruction_set
from pipeline.model.zoo import DEFAULT_MODEL, ZOO
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.tar import read_tar
from pipeline.storage import store_for

SAMPLE = Path(__file__).parent / "sample"
_IMAGES_PER_TAR = 128
_PART_IMAGES = 32

_photos = click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs; repeat it [default: the bundled photographs].")
_short_side = click.option("--short-side", type=click.IntRange(16, 8192), default=520, show_default=True, help="Pixels.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    r"""Measure what this machine gives.

    \b
    maskfleet bench models --model lraspp_mobilenet_v3_large
    maskfleet bench pipeline --images 1000 --usd-per-core-hour 0.02
    """


@main.command("models")
@click.option("--model", "names", multiple=True, type=click.Choice(list(ZOO)), help="A network; repeat it [default: all].")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Interleaved rounds.")
@_photos
@_short_side
def models_command(names: tuple[str, ...], rounds: int, photos: tuple[str, ...], short_side: int) -> None:
    """Measure each network on one core: images/s by engine and precision, and how many labels equal torch's."""
    run_job(lambda: _models(names or tuple(ZOO), rounds, photos, short_side), goes_on=False)


def _models(names: Sequence[str], rounds: int, photos: Sequence[str], short_side: int) -> int:
    from jobs.bench_models import COLUMNS, measure

    images = [decode(data, max_source_pixels=1 << 30).image for _, data in photographs(photos)]
    rows = [measure(name, images, short_side, rounds).row() for name in names]
    click.echo(f"{_machine()}; short side {short_side}, one thread, medians of {rounds} rounds, images/s of the network alone\n")
    click.echo(markdown_table(COLUMNS, rows))
    click.echo(f"\n{DEFAULT_MODEL} has the bundled weights, the others random weights: a network's speed depends on neither.")
    return 0


@main.command("pipeline")
@click.option("--images", type=click.IntRange(min=1), default=600, show_default=True, help="Photographs are repeated.")
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@click.option("--usd-per-core-hour", type=click.FloatRange(min=0), help="Adds the price of a million images.")
@_photos
@_short_side
def pipeline_command(
    images: int, precision: str, usd_per_core_hour: float | None, photos: tuple[str, ...], short_side: int
) -> None:
    """Measure the whole job: `segment` on tars of photographs, with the bundled weights, on all cores."""
    run_job(lambda: _pipeline(images, precision, usd_per_core_hour, photos, short_side), goes_on=False)


def _pipeline(images: int, precision: str, usd: float | None, photos: Sequence[str], short_side: int) -> int:
    os.environ["RAY_ADDRESS"] = "local"  # only this machine is measured
    data, cores = [encoded for _, encoded in photographs(photos)], len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as scratch:
        write_tars(Path(scratch) / "in", data, images, _IMAGES_PER_TAR)
        flags = {"weights": "bundled", "precision": precision, "short_side": short_side, "part_images": _PART_IMAGES}
        flags |= {"input": (f"{scratch}/in",), "output": f"{scratch}/out", "workers": str(cores)}
        outcome = label(load_config(flags), debug=False)
        if outcome.error is not None:
            raise outcome.error
    attempt = outcome.run["attempts"][-1]
    rows = [
        ("images/s, from the first image to the last", f"{attempt['images_per_s']:.2f}"),
        ("images/s, with start-up and end", f"{images / attempt['seconds']:.2f}"),
    ]
    if usd is not None:
        hours = 1e6 / attempt["images_per_s"] / 3600 * cores
        rows.append((f"USD for a million images at {usd:g} per core hour", f"{hours * usd:.2f}"))
    rows += [(f"{stage}, CPU ms per image", f"{spent / images:.2f}") for stage, spent in attempt["milliseconds"].items()]
    click.echo(f"{_machine()}; {images} images, short side {short_side}, {precision}, {cores} workers\n")
    click.echo(markdown_table(("segment", ""), rows))
    return 0


def _machine() -> str:
    return f"{cpu_name()} ({instruction_set()})"


def photographs(folders: Sequence[str] = ()) -> list[tuple[str, bytes]]:
    """(name, encoded JPEG) of each photograph in these folders; without folders, the bundled ones. Raises `UsageError`."""
    if not folders:
        infos = [store_for(str(path)).stat(str(path)) for path in sorted(SAMPLE.absolute().glob("*.tar"))]
        shards = [SourceObject(uri=info.uri, kind="tar", size=info.size, version=info.version) for info in infos]
        read = (image for shard in shards for image in read_tar(store_for(shard.uri), shard, Cursor(), ReadOptions()))
        return [(image.image_id, image.data) for image in read if image.data]
    found = [(file.stem, file.read_bytes()) for folder in folders for file in sorted(Path(folder).glob("*.jp*g"))]
    if not found:
        raise UsageError(f"--photos: no .jpg in {', '.join(folders)}")
    return found


def write_tars(folder: Path, data: Sequence[bytes], images: int, images_per_tar: int) -> None:
    """Write `images` photographs, repeated in order, as WebDataset tars into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, first in enumerate(range(0, images, images_per_tar)):
        (folder / f"{shard:05d}.tar").write_bytes(tar_of(data, first, min(images, first + images_per_tar)))


def tar_of(data: Sequence[bytes], first: int, stop: int) -> bytes:
    """A tar with images number `first` to `stop` (not included) of `data`, repeated without end."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number in range(first, stop):
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = len(data[number % len(data)])
            tar.addfile(member, io.BytesIO(data[number % len(data)]))
    return sink.getvalue()


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown, with padded columns, so that people can read it in a terminal too."""
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (columns, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(prog_name="python -m jobs.bench")
