"""`maskfleet JOB …`: the same functions as `python -m jobs.JOB …`."""

import importlib

import click

JOBS = {
    "segment": "label every image of the input",
    "verify": "prove that an output is whole",
    "look": "draw photographs, labels and confidence of a run",
    "bench": "measure what this machine gives",
}


class _Jobs(click.Group):
    """Imports a job only when it is called, so that `--help` is quick."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(JOBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in JOBS:
            return None
        command: click.Command = importlib.import_module(f"jobs.{name}").main
        command.short_help = JOBS[name]
        return command


@click.command(cls=_Jobs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="maskfleet")
def main() -> None:
    """Label millions of images on Ray: no image lost, none twice, on cheap CPUs."""


if __name__ == "__main__":
    main(prog_name="maskfleet")
