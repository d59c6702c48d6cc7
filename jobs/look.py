"""`look`: photographs, labels and confidence of a run on one sheet."""

import os
from pathlib import Path

import click

from jobs.command import Job, run_job
from jobs.report import Report, replace_file
from pipeline.errors import UsageError, printable
from pipeline.look.choose import Where
from pipeline.look.look import Look, look
from pipeline.look.sheet import encoded, picture_format
from pipeline.stopped import stop_on_signals
from pipeline.storage import base_name, normalise


@click.command(
    cls=Job,
    examples=(
        ("Draw twelve images at random:", "out/quickstart"),
        ("Draw the 24 images with the largest share of cat:", "s3://data/out --where class=cat --images 24 --to cats.jpg"),
    ),
)
@click.argument("out", metavar="OUT")
@click.option("--images", metavar="N", type=click.IntRange(1, 200), default=12, show_default=True, help="At most so many images.")
@click.option(
    "--where", metavar="WHICH", default="random", show_default=True,
    help="Which images: random, least-confident, class=NAME (the largest share of it first), or id=IMAGE_ID.",
)  # fmt: skip
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Another choice at random.")
@click.option("--to", metavar="FILE", help="The picture: .jpg or .png [default: NAME-look.jpg here; NAME is OUT's last].")
@click.option("--json", "json_file", metavar="FILE", help="Write what the sheet shows, and how it ended, as one JSON object.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
def main(out: str, images: int, where: str, seed: int, to: str | None, json_file: str | None, debug: bool) -> None:
    """Draw a sheet of photographs, labels and confidence of the run at OUT, a local folder or s3://.

    Reads the rows that it shows, and one column of the others unless they are chosen at random. Writes the picture, and
    nothing into OUT. A run that is not complete is shown as far as it is. If a photograph is gone, denied or another by
    now, its labels are shown alone.

    Exit codes: 0 done, 1 a bug, 2 wrong usage, 4 no run or no such image there, or not reachable, 7 a part is damaged.
    """
    report = Report(json_file)
    run_job(lambda: _look(out, images, where, seed, to, report), debug=debug, report=report, goes_on=False)


def _look(out: str, images: int, where: str, seed: int, to: str | None, report: Report) -> int:
    stop_on_signals()
    to = to or f"{base_name(normalise(out).rstrip('/')) or 'run'}-look.jpg"
    chosen, kind = Where.parse(where), picture_format(to)
    if not os.access(Path(to).absolute().parent, os.W_OK) or Path(to).is_dir():  # before a million rows are read
        raise UsageError(f"--to {to}: no file can be written there")
    found = look(out, chosen, images=images, seed=seed)
    report.values = found.as_json() | {"picture": to}
    try:
        replace_file(to, encoded(found.sheet(), kind))
    except OSError as error:
        raise UsageError(f"--to {to}: {error.strerror}") from error
    for line in [*lines_of(found), f"look: {found.summary}", f"open this  {to}"]:
        click.echo(printable(line.replace("\n", " ")))  # image names may hold any characters
    return 0


def lines_of(found: Look) -> list[str]:
    """One line per tile: number, confidence, name, classes. A second line if its photograph cannot be shown."""
    lines = []
    for number, tile in enumerate(found.tiles, 1):
        shares = ", ".join(f"{one.name} {100 * one.share:.0f} %" for one in tile.classes) or "background only"
        confidence = "    " if tile.mean_confidence is None else f"{tile.mean_confidence:.2f}"
        lines.append(f"{number:>3}  {confidence}  {tile.image_id}: {shares}")
        lines += [f"           {tile.note[:-1]}: {tile.detail}"] if tile.note else []
    return lines


if __name__ == "__main__":
    main()
