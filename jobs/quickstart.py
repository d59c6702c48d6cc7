"""`make quickstart` runs this: it labels the bundled photographs, and draws the picture to open."""

import os

import click

from jobs.command import run_job
from jobs.report import replace_file
from jobs.segment import label
from jobs.show import print_outcome
from pipeline.config import load_config
from pipeline.errors import RunMismatch, ShardChanged, UsageError
from pipeline.look.choose import Where
from pipeline.look.look import look
from pipeline.look.sheet import encoded, picture_format

CONFIG = "jobs/configs/quickstart.toml"
PICTURE = "out/quickstart.png"
SHOWN = ("chelsea", "grace_hopper", "astronaut", "flower")  # the bundled weights label these right
NOTES = (
    "The bundled weights are small. They know 20 classes, and no buildings, rockets or cups: in the other three photographs "
    "they take a pagoda and launch towers for boats, and find next to nothing on the cup.",
)


@click.command()
@click.option("--to", metavar="FILE", default=PICTURE, show_default=True, help="The picture: .png or .jpg.")
def main(to: str) -> None:
    """Label the bundled photographs with the bundled weights into out/quickstart/."""
    run_job(lambda: _quickstart(to))


def _quickstart(to: str) -> int:
    config, kind = load_config({}, CONFIG), picture_format(to)
    try:
        outcome = label(config, debug=False)
    except (RunMismatch, ShardChanged) as error:  # an older version had other weights or photographs
        raise UsageError(f"{config.output} is of another version: remove it, and start again ({error})") from error
    print_outcome(outcome.run, outcome.classes)
    if outcome.error is not None:
        raise outcome.error
    found = look(config.output, Where("id", SHOWN), images=len(SHOWN))
    replace_file(to, encoded(found.sheet(NOTES), kind))
    out = os.path.relpath(config.output)
    click.echo(f"  masks       {out}/masks/*.parquet")
    click.echo(f"  open this   {to}  (photograph | labels | confidence)")
    click.echo(f"  all seven   .venv/bin/maskfleet look {out}")
    return 0


if __name__ == "__main__":
    main()
