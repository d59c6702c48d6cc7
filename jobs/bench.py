"""`bench models|pipeline|peers|scale`: the figures of the README, measured here and now."""

import importlib

import click

BENCHMARKS = {
    "models": "every network on every engine: size, speed, agreement",
    "pipeline": "the whole job against a bare loop of processes",
    "peers": "against the recipes of Ray Data, Daft and a DataLoader",
    "scale": "a million shards, ten and a hundred times the input, memory",
}


class _Benchmarks(click.Group):
    """Imports a benchmark when it is asked for."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(BENCHMARKS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in BENCHMARKS:
            return None
        command: click.Command = importlib.import_module(f"jobs.benchmarks.{name}").main
        command.short_help = BENCHMARKS[name]
        return command


@click.command(cls=_Benchmarks, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure on this machine what the README claims.

    Each prints a Markdown table, and writes it, the same as JSON, and a plot into --out.
    """


if __name__ == "__main__":
    main(prog_name="python -m jobs.bench")
