"""What all jobs share: flags made from a config class, exit codes, and errors on one line."""

import re
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

_GOES_ON = "the same command goes on from here"
_STOPPED = f"stopped; {_GOES_ON}"


class Flag(click.Option):
    """An option for a field of a config class. group: the title above the option in the help text."""

    def __init__(self, declarations: list[str], *, group: str, **settings: Any) -> None:
        super().__init__(declarations, **settings)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The name and text for the help. A switch is shown in one short word: `--[no-]fast-decode`."""
        record = super().get_help_record(ctx)
        if record is None or not self.secondary_opts:
            return record
        return self.secondary_opts[0].replace("--no-", "--[no-]", 1), record[1]


class _Formatter(click.HelpFormatter):
    """Keeps `[default: 30]` and `--image-timeout-s` on one line: help texts hold no-break spaces and hyphens in them."""

    def write(self, string: str) -> None:
        """Write text, with plain spaces and hyphens instead of the no-break ones."""
        super().write(string.translate({0xA0: " ", 0x2011: "-"}))


def _unbroken(text: str) -> str:
    text = re.sub(r"\[default: [^]]*\]", lambda found: found[0].replace(" ", "\xa0"), text)
    return re.sub(r"--[a-z-]+", lambda found: found[0].replace("-", "\u2011"), text)


class _Context(click.Context):
    formatter_class = _Formatter


class Job(click.Command):
    """A job with `--json FILE`. The file also reports wrong flags, which click finds before the job begins.

    examples: pairs of a text that says what a command line does, and its arguments.
    """

    context_class = _Context

    def __init__(self, name: str | None, *, examples: tuple[tuple[str, str], ...] = (), **settings: Any) -> None:
        settings.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 110})
        super().__init__(name, **settings)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below the titles of their groups, with all texts in one column."""
        shown = [(option, option.get_help_record(ctx)) for option in self.get_params(ctx) if isinstance(option, click.Option)]
        grouped = any(isinstance(option, Flag) for option, _ in shown)
        groups: dict[str, list[tuple[str, str]]] = {}
        for option, record in shown:
            if record is not None:
                title = option.group if isinstance(option, Flag) else "General" if grouped else "Options"
                groups.setdefault(title, []).append(record)
        width = max(len(names) for records in groups.values() for names, _ in records)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl([(names.ljust(width), _unbroken(text)) for names, text in records], col_max=width)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each with the command as it was called."""
        if self.examples:
            with formatter.section("Examples"):
                for what, arguments in self.examples:
                    formatter.write_text(what)
                    formatter.write(f"{'':>{formatter.current_indent + 2}}{ctx.command_path} {arguments}\n")

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line. A wrong flag is also written to the file of `--json`."""
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            report = Report(_json_file(given))
            with suppress(UsageError):  # one error is reported; this would be a second one
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
    return file  # if given twice, the last one, as for click


def _or_none(kind: Any) -> Callable[[Any], Any]:
    """A converter to this kind. It turns `none` into the default, whatever the config file says."""
    convert = click.types.convert_type(kind).convert
    return lambda given: DEFAULT if given == "none" else convert(given, None, None)


def flags_of(config: type[Group]) -> list[click.Option]:
    """One `--kebab-case` option per field. No default is filled in here: an option that is not given stays None.

    A flag can undo what a config file sets: a switch has `--no-…`, and an option without a default value takes `none`.
    """
    return [_option(title, name, field) for title, fields in groups_of(config).items() for name, field in fields.items()]


METAVARS = {
    "input": "URI", "output": "URI", "allow_root": "URI", "weights": "NAME|URI", "classes": "FILE", "image_column": "NAME",
    "id_column": "NAME", "image_ext": "EXT", "short_side": "PIXELS", "max_pixels": "PIXELS", "max_source_pixels": "PIXELS",
    "workers": "N|MIN:MAX", "redo": "ERROR", "failure_budget": "FRACTION", "min_confidence": "FRACTION",
    "image_timeout_s": "SECONDS", "idle_minutes": "MINUTES", "usd_per_core_hour": "USD",
}  # fmt: skip
_METAVAR_CHARS = 16  # if the choices are longer than this, they stand in the text


def _option(group: str, name: str, field: FieldInfo) -> Flag:
    kind, optional = field.annotation, False
    if get_origin(kind) in (Union, types.UnionType):
        kind, optional = next(part for part in get_args(kind) if part is not types.NoneType), True
    flag = "--" + name.replace("_", "-")
    text = field.description or ""
    choices: tuple[str, ...] = get_args(kind) if get_origin(kind) is Literal else ()
    metavar = "|".join(choices) or METAVARS.get(name, "N" if kind is int else "TEXT")
    if len(metavar) > _METAVAR_CHARS:
        metavar, text = "NAME", f"{text.removesuffix('.')}: {', '.join(choices)}."
    default = field.default
    if default not in (None, ()) and default is not False and not field.is_required():
        text += f" [default: {f'{default:g}' if isinstance(default, float) else default}]"
    if kind is bool:
        both = flag if is_for_once(field) else f"{flag}/--no-{flag.removeprefix('--')}"
        return Flag([both, name], group=group, is_flag=True, default=None, help=text)
    several = get_origin(kind) is tuple
    optional = optional or (several and not field.is_required())
    parameter: Any = click.Choice(choices) if choices else kind if kind in (int, float) else str
    if optional and not is_for_once(field):
        parameter, metavar = _or_none(parameter), f"{metavar}|none"
    required = " [required]" if field.is_required() else ""
    return Flag(
        [flag, name], group=group, type=parameter, multiple=several, default=None, help=text + required, metavar=metavar,
        callback=_one_or_none if several else None,
    )  # fmt: skip


def _one_or_none(_context: click.Context, _option: click.Parameter, values: tuple[Any, ...]) -> Any:
    if DEFAULT in values and len(values) > 1:
        raise click.BadParameter("none stands alone")
    return DEFAULT if DEFAULT in values else values or None


def run_job(job: Callable[[], int], *, debug: bool = False, report: Report | None = None, goes_on: bool = True) -> NoReturn:
    """Run a job and exit with its code. An error for users is one line; tracebacks are for bugs and for `--debug`.

    report: for `--json`; it is written whichever way the job ends. goes_on: would the same command go on where a signal ended it?
    """
    report = report or Report(None)
    error: BaseException | None = None
    try:
        report.begin()
        code = job()
    except MaskfleetError as failed:
        text = str(failed) if isinstance(failed, Bug) else str(failed).replace("\n", " ")  # a bug's text is a traceback
        click.echo("".join(traceback.format_exception(failed)).rstrip() if debug else f"maskfleet: {printable(text)}", err=True)
        code, error = failed.exit_code, failed
    except (Stopped, KeyboardInterrupt) as stopped:
        code, error = getattr(stopped, "exit_code", 130), stopped
        words = ["stopped", *getattr(stopped, "__notes__", ()), *([_GOES_ON] if goes_on else ())]
        click.echo(f"maskfleet: {'; '.join(words)}", err=True)
    except Exception as bug:
        _tell_end(report, 1, bug)
        raise
    sys.exit(_tell_end(report, code, error))


def _tell_end(report: Report, code: int, error: BaseException | None) -> int:
    """Write the file of `--json` -> the exit code. If only this write fails, it is the code of the failure."""
    message = _STOPPED if isinstance(error, Stopped | KeyboardInterrupt) else str(error)
    try:
        report.end(code, None if error is None else (type(error).__name__, message))
    except UsageError as unwritten:
        click.echo(f"maskfleet: {unwritten}", err=True)
        return code or unwritten.exit_code
    return code
