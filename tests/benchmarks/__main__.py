"""`python -m tests.benchmarks pipeline|models|scale|peers`: see README.md. `make bench-…` runs each with its environment."""

import importlib

import click

MODULES = {"pipeline": "job", "models": "engines", "scale": "scale", "peers": "peers"}


class _Benchmarks(click.Group):
    """Imports a benchmark only when it is called."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in MODULES:
            return None
        command: click.Command = importlib.import_module(f"tests.benchmarks.{MODULES[name]}").main
        return command


@click.command(cls=_Benchmarks, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure on this machine; each benchmark prints its tables, and writes them, JSON and a chart into --out."""


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
