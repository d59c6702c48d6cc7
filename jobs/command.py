"""What all jobs share: flags made from a config class, exit codes, and errors on one line."""

import sys
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from jobs.report import Report
from pipeline.config import DEFAULT, Group, groups_of, is_for_once
from pipeline.errors import Bug, MaskfleetError, UsageError, printable
from pipeline.stopped import Stopped

_STOPPED = "stopped; the same command goes on from here"


class Job(click.Command):
    """A job with `--json FILE`, which tells of wrong flags too: click finds them before the job begins."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line."""
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            report = Report(_json_file(given))
            with suppress(UsageError):  # which would be the second thing that is wrong
                report.begin()
            _tell_end(report, UsageError.exit_code, UsageError(error.format_message()))
            raise


def _json_file(arguments: list[str]) -> str | None:
    file = None
    for argument, following in pairwise([*arguments, None]):
        if argument is None or argument == "--":
            break
        if argument == "--json":
            file = following
        elif argument.startswith("--json="):
            file = argument.removeprefix("--json=")
    return file  # the last one, as click takes it


def _or_none(kind: Any) -> Callable[[Any], Any]:
    """A value of this kind, or `none` for the default, whatever the config file says."""
    convert = click.types.convert_type(kind).convert
    return lambda given: DEFAULT if given == "none" else convert(given, None, None)


def flags_of(config: type[Group]) -> list[click.Option]:
    """One `--kebab-case` option a field. Nothing is filled in here: what is not given stays None.

    What a config file may set, a flag can set back: a switch has `--no-…`, what has no value by default takes `none`.
    """
    return [_option(name, field) for fields in groups_of(config).values() for name, field in fields.items()]


_METAVARS = {"int": "N", "float": "X", "Workers": "N|MIN:MAX"}


def _option(name: str, field: FieldInfo) -> click.Option:
    kind, optional = field.annotation, False
    if get_origin(kind) in (Union, types.UnionType):
        kind, optional = next(part for part in get_args(kind) if part is not types.NoneType), True
    flag = "--" + name.replace("_", "-")
    text = field.description or ""
    if field.default not in (None, ()) and field.default is not False and not field.is_required():
        text += f" [default: {field.default}]"
    if kind is bool:
        both = flag if is_for_once(field) else f"{flag}/--no-{flag.removeprefix('--')}"
        return click.Option([both, name], is_flag=True, default=None, help=text)
    several = get_origin(kind) is tuple
    optional = optional or (several and not field.is_required())
    choice = get_origin(kind) is Literal
    parameter: Any = click.Choice(get_args(kind)) if choice else kind if kind in (int, float) else str
    metavar = None if choice else _METAVARS.get(getattr(kind, "__name__", ""), "TEXT")
    if name in ("input", "output"):
        metavar = "URI"
    if optional and not is_for_once(field):
        parameter, metavar = _or_none(parameter), f"{metavar}|none"
    required = " [required]" if field.is_required() else ""
    return click.Option(
        [flag, name], type=parameter, multiple=several, default=None, help=text + required, metavar=metavar,
        callback=_one_or_none if several else None,
    )  # fmt: skip


def _one_or_none(_context: click.Context, _option: click.Parameter, values: tuple[Any, ...]) -> Any:
    if DEFAULT in values and len(values) > 1:
        raise click.BadParameter("none stands alone")
    return DEFAULT if DEFAULT in values else values or None


def run_job(job: Callable[[], int], *, debug: bool = False, report: Report | None = None) -> NoReturn:
    """Run a job and exit with its code; errors for users are one line, a traceback is for bugs and `--debug`.

    report: what `--json` asks for; it is written however the job ends.
    """
    report = report or Report(None)
    error: BaseException | None = None
    try:
        report.begin()
        code = job()
    except MaskfleetError as failed:
        text = str(failed) if isinstance(failed, Bug) else str(failed).replace("\n", " ")  # a traceback has lines
        click.echo("".join(traceback.format_exception(failed)).rstrip() if debug else f"maskfleet: {printable(text)}", err=True)
        code, error = failed.exit_code, failed
    except (Stopped, KeyboardInterrupt) as stopped:
        code, error = getattr(stopped, "exit_code", 130), stopped
        click.echo(f"maskfleet: {_STOPPED}", err=True)
    except Exception as bug:
        _tell_end(report, 1, bug)
        raise
    sys.exit(_tell_end(report, code, error))


def _tell_end(report: Report, code: int, error: BaseException | None) -> int:
    """Write `--json`; -> the exit code: that of the job, unless all was well but for this."""
    message = _STOPPED if isinstance(error, Stopped | KeyboardInterrupt) else str(error)
    try:
        report.end(code, None if error is None else (type(error).__name__, message))
    except UsageError as unwritten:
        click.echo(f"maskfleet: {unwritten}", err=True)
        return code or unwritten.exit_code
    return code
