"""What `make quickstart` runs: label the bundled photographs, and draw the picture to open."""

from pathlib import Path

import click

from jobs.command import run_job
from jobs.segment import label
from jobs.show import print_outcome
from pipeline.api.opened import open_run
from pipeline.api.picture import contact_sheet
from pipeline.config import load_config

CONFIG = "jobs/configs/quickstart.toml"
PICTURE = "out/quickstart.png"


@click.command()
def main() -> None:
    """Label the bundled photographs with the bundled weights into out/quickstart/."""
    run_job(_quickstart)


def _quickstart() -> int:
    config = load_config({}, CONFIG)
    outcome = label(config, debug=False)
    print_outcome(outcome.run, outcome.classes)
    if outcome.error is not None:
        raise outcome.error
    picture = Path(PICTURE)
    contact_sheet(open_run(config.output)).save(picture)
    click.echo(f"  masks       {config.output}/masks/*.parquet")
    click.echo(f"  open this   {picture}  (photograph | labels | confidence)")
    return 0


if __name__ == "__main__":
    main()
