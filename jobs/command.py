"""What all jobs share: flags made from a config class, exit codes, `--json`, and errors on one line."""

import json
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.errors import Bug, MaskfleetError, UsageError, printable
from pipeline.run.segment import Stopped


def flags_of(config: type[BaseModel]) -> list[click.Option]:
    """One `--kebab-case` option a field. Nothing is filled in here: what is not given stays None."""
    return [_option(name, field) for name, field in config.model_fields.items()]


def _option(name: str, field: FieldInfo) -> click.Option:
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    flag = "--" + name.replace("_", "-")
    text = field.description or ""
    if field.default not in (None, ()) and field.default is not False and not field.is_required():
        text += f" [default: {field.default}]"
    if kind is bool:
        return click.Option([flag, name], is_flag=True, default=None, help=text)
    several = get_origin(kind) is tuple
    choice = get_origin(kind) is Literal
    parameter: Any = click.Choice(get_args(kind)) if choice else str if several else kind
    metavar = None if choice else {"str": "TEXT", "int": "N", "float": "X"}.get(getattr(kind, "__name__", ""), "TEXT")
    if name in ("input", "output"):
        metavar = "URI"
    required = " [required]" if field.is_required() else ""
    return click.Option([flag, name], type=parameter, multiple=several, default=None, help=text + required, metavar=metavar)


def run_job(job: Callable[[], int], *, debug: bool = False) -> None:
    """Run a job and exit with its code; errors for users are one line, a traceback is for bugs and `--debug`."""
    try:
        code = job()
    except MaskfleetError as error:
        if debug:
            raise
        text = str(error) if isinstance(error, Bug) else str(error).replace("\n", " ")  # a traceback has lines
        click.echo(f"maskfleet: {printable(text)}", err=True)
        code = error.exit_code
    except (Stopped, KeyboardInterrupt) as stopped:
        code = getattr(stopped, "exit_code", 130)
        click.echo("maskfleet: stopped; the same command goes on from here", err=True)
    sys.exit(code)


def stop_on_signals() -> None:
    """SIGINT and SIGTERM raise `Stopped` once; the second one ends the process at once."""

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def write_json(path: str | None, values: dict[str, Any]) -> None:
    """`--json FILE`: what the job printed, as one object."""
    if path is None:
        return
    try:
        Path(path).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {path}: {error.strerror}") from error
