"""The interface that users and scripts rely on, as text: Python names, flags, columns, exit codes, `failures.error`.

`python -m tests.support.interface > tests/unit/interface.txt` writes it down anew.
"""

import enum
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import click
import pyarrow as pa

import pipeline
from jobs.__main__ import JOBS
from pipeline import errors, schema
from pipeline.stopped import Stopped

T = TypeVar("T")

_RUN_JSON = {
    "": "format maskfleet state updated labels_digest errors fingerprint input output plan_files ignored_objects",
    "counts.": "images masks failures broken_shards inferred skipped",
    "labels.": "weights_sha256 model engine precision short_side mean std min_confidence fast_decode classes labels_version",
    "shape.": "part_images max_pixels max_source_pixels input_format image_column image_ext id_column confidence_map",
    "weights.": "name sha256",
    "versions.": "ray openvino torch torchvision pyarrow pillow numba numpy",
    "attempts.": "id started seconds state inferred skipped images_per_s pid milliseconds retries",
}
# A run writes exactly these keys (`tests/flow/test_segment.py` checks it). The keys below `errors` are names of errors.
RUN_JSON = sorted(above + name for above, names in _RUN_JSON.items() for name in names.split())


def run_json_keys(run: Mapping[str, Any]) -> list[str]:
    """The keys of a `run.json`, as `RUN_JSON` names them: two levels; for `attempts` the keys of the last attempt."""
    names: list[str] = []
    for key, value in run.items():
        inner = value[-1] if key == "attempts" else value
        below = sorted(inner) if isinstance(inner, dict) and key != "errors" else []
        names += [f"{key}.{name}" for name in below] or [key]
    return sorted(names)


def describe_interface() -> str:
    """The interface in sections, with one line for each thing that somebody may rely on."""
    sections = {
        "Python: from pipeline import …": _python(),
        "Commands and flags": _commands(),
        "Columns": _columns(),
        "Keys of run.json": iter(RUN_JSON),
        "Exit codes": _exit_codes(),
        "Errors of images: columns `stage` and `error` of failures, and --redo": _errors_of_images(),
    }
    return "\n".join(line for title, lines in sections.items() for line in (f"# {title}", *lines, "")).rstrip() + "\n"


def _python() -> Iterator[str]:
    for name in sorted(pipeline.__all__):
        thing = getattr(pipeline, name)
        if not inspect.isclass(thing) or "__call__" in vars(thing):  # users call these; they only get a `Run` or `Labels`
            yield f"{name}{_parameters(thing)}"
        if not inspect.isclass(thing):
            continue
        members = set(dir(thing)) | set(getattr(thing, "__annotations__", {}))
        for member in sorted(each for each in members if not each.startswith("_") or each == "__call__"):
            value = inspect.getattr_static(thing, member, None)
            yield f"{name}.{member}{_parameters(value) if inspect.isfunction(value) else ''}"


def _parameters(function: object) -> str:
    """Names and defaults of parameters. Types are left out: mypy compares them."""
    assert callable(function)
    signature = inspect.signature(function)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _commands() -> Iterator[str]:
    for job in sorted(JOBS):
        yield from _command(f"maskfleet {job}", importlib.import_module(f"jobs.{job}").main)


def _command(name: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in sorted(command.list_commands(context)):
            below = command.get_command(context, each)
            assert below is not None
            yield from _command(f"{name} {each}", below)
        return
    for parameter in sorted(command.params, key=lambda each: (isinstance(each, click.Option), each.name or "")):
        yield f"{name} {_parameter(parameter)}"


def _parameter(parameter: click.Parameter) -> str:
    choices = "|".join(map(str, parameter.type.choices)) if isinstance(parameter.type, click.Choice) else ""
    several = " …" if parameter.multiple or parameter.nargs != 1 else ""
    if not isinstance(parameter, click.Option):
        return f"{choices or (parameter.name or '').upper()}{several}"
    flags = "/".join(parameter.opts + parameter.secondary_opts)
    none = "|none" if (parameter.metavar or "").endswith("|none") else ""
    value = "" if parameter.is_flag else f" {choices or 'VALUE'}{none}"
    said = re.search(r" \[default: (.*?)\]", parameter.help or "")
    default = said[1] if said else parameter.to_info_dict()["default"]
    if isinstance(default, enum.Enum) or (parameter.is_flag and not default):  # click's word for "not set"
        default = None
    ending = " [required]" if "[required]" in (parameter.help or "") or parameter.required else ""
    return f"{flags}{value}{several}{'' if default is None else f' [default: {default}]'}{ending}"


def _columns() -> Iterator[str]:
    tables = {
        "masks": schema.masks_schema(confidence_map=True),
        "failures": schema.FAILURES,
        "class_stats": schema.CLASS_STATS,
        "plan": schema.PLAN,
    }
    for name, table in tables.items():
        for column in table:
            only = " (with --confidence-map)" if name == "masks" and column.name not in schema.masks_schema().names else ""
            yield f"{name}.{column.name}: {_type(column.type)}{'' if column.nullable else ' not null'}{only}"
        for key, value in (table.metadata or {}).items():
            yield f"{name} metadata {key.decode()}: {value.decode()}"


def _type(kind: pa.DataType) -> str:
    return str(kind).replace(": ", " ")


def _exit_codes() -> Iterator[str]:
    codes = [(0, "done"), *((Stopped(number).exit_code, f"stopped by signal {number}") for number in (2, 15))]
    codes += [(error.exit_code, error.__name__) for error in _below(errors.MaskfleetError)]
    return (f"{code} {what}" for code, what in sorted(codes))


def _errors_of_images() -> Iterator[str]:
    return (f"{error.stage} {error.__name__}" for error in sorted(_below(errors.BadImage), key=lambda each: each.__name__))


def _below(kind: type[T]) -> Iterator[type[T]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:  # nobody relies on error classes of tests
            yield each
            yield from _below(each)


@click.command()
def main() -> None:
    """Print what users and their scripts rely on."""
    click.echo(describe_interface(), nl=False)


if __name__ == "__main__":
    main()
