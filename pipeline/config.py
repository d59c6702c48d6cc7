"""The config of a run: frozen, and validated once. Flags, TOML files and Python code all build this class."""

import re
import tomllib
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from pipeline.errors import UsageError
from pipeline.model.zoo import DEFAULT_MODEL, Model
from pipeline.storage import normalise, scheme_of

Engine = Literal["openvino", "torch"]
Precision = Literal["fp32", "bf16"]
InputFormat = Literal["auto", "webdataset", "parquet", "images", "list"]
PILLOW_MAX_PIXELS = 178_956_970  # Pillow's own limit for a "possible decompression bomb"

DEFAULT: Final = object()  # as the value of a setting: take its default, whatever the config file says


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers a run may have: at least `min`, for which a cluster may have to grow, and at most `max`."""

    min: int
    max: int

    @classmethod
    def parse(cls, value: object) -> object:
        """Parse `N`, a number or text, or `MIN:MAX`. Raises `ValueError`, which says what is allowed."""
        if value is None or isinstance(value, Workers | dict):
            return value
        found = re.fullmatch(r"0*(\d{1,9})(?::0*(\d{1,9}))?", str(value).strip(), re.ASCII)
        workers = None if found is None or isinstance(value, bool) else cls(int(found[1]), int(found[2] or found[1]))
        if workers is None or not 1 <= workers.min <= workers.max:
            raise ValueError(f"{value}: a number N, or MIN:MAX, from 1 on")
        return workers

    def within(self, count: int) -> int:
        """The allowed number that is nearest to `count`."""
        return max(self.min, min(self.max, count))


def encoded_bytes_limit(max_source_pixels: int) -> int:
    """The most bytes of an encoded image that is read: those of an uncompressed RGBA image of the largest size, and 1 MiB."""
    return 4 * max_source_pixels + (1 << 20)


_ONCE = {"config_file": False}  # for one deliberate run: refused in a config file


class Group(BaseModel):
    """Flags that belong together. A job's config is a class that inherits the groups which the job needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: ClassVar[str] = ""


class Reading(Group):
    """What is read, and how."""

    title = "Input"

    input: Annotated[tuple[str, ...], Field(min_length=1, description="Shards, images, globs or lists; repeat it.")]
    input_format: Annotated[InputFormat, Field(description="What the inputs are, if their names do not say.")] = "auto"
    image_column: Annotated[str | None, Field(description="Column of the images (Parquet) or URIs (.csv, .jsonl).")] = None
    id_column: Annotated[str | None, Field(description="Parquet column that becomes image_id.")] = None
    image_ext: Annotated[str | None, Field(description="Whole extension of the image members of a tar, such as jpg.")] = None
    allow_root: Annotated[
        tuple[str, ...], Field(description="Lists may name only what lies at or below it; repeat it for several.")
    ] = ()
    max_source_pixels: Annotated[int, Field(ge=1, description="Most pixels of a photograph.")] = PILLOW_MAX_PIXELS
    fast_decode: Annotated[
        bool, Field(description="Decode large JPEGs at 1/2, 1/4 or 1/8 of their size: sooner, a few label pixels differ.")
    ] = False

    @field_validator("input", "allow_root", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("image_ext")
    @classmethod
    def _extension(cls, value: str | None) -> str | None:
        return None if value is None else value.lstrip(".").lower()

    @property
    def max_encoded_bytes(self) -> int:
        """The most bytes of an encoded image that is read."""
        return encoded_bytes_limit(self.max_source_pixels)


class Network(Group):
    """Which network labels, and what runs it."""

    title = "Network"

    model: Annotated[Model, Field(description="The network, by torchvision's name.")] = DEFAULT_MODEL
    weights: Annotated[
        str, Field(description="bundled, a torchvision enum member, or the URI of a .pth or .safetensors file.")
    ] = "COCO_WITH_VOC_LABELS_V1"
    classes: Annotated[
        str | None, Field(description="File with the class names, one per line, for weights with other classes.")
    ] = None
    short_side: Annotated[
        int | None,
        Field(ge=16, le=8192, description="Resize the short side to this many pixels [default: what the weights say]."),
    ] = None
    max_pixels: Annotated[int, Field(ge=1, description="Most pixels of a resized input.")] = 4_000_000
    engine: Annotated[Engine, Field(description="What runs the network.")] = "openvino"
    precision: Annotated[Precision, Field(description="Arithmetic of the network; bf16 needs a CPU that has it.")] = "fp32"


class Labels(Group):
    """What the masks keep."""

    title = "Labels"

    confidence_map: Annotated[
        bool, Field(description="Store the confidence of every pixel too: masks keep every label, readers choose a threshold.")
    ] = False
    min_confidence: Annotated[
        float, Field(ge=0, le=1, description="Final masks: pixels below become 255 (ignore), for good.")
    ] = 0.0


class Running(Group):
    """Where the run goes, with how many workers, and what is labelled again."""

    title = "Run"

    output: Annotated[str, Field(description="Where the run goes: a folder or s3:// prefix.")]
    workers: Annotated[
        Workers | None,
        BeforeValidator(Workers.parse),
        Field(description="Worker processes, one core each; MIN:MAX follows the cluster [default: every core it has and gets]."),
    ] = None
    part_images: Annotated[int, Field(ge=1, le=65536, description="Images in a part: the unit of commit and of loss.")] = 256
    redo: Annotated[
        str | None, Field(description="Label again the parts with failures of this error class.", json_schema_extra=_ONCE)
    ] = None
    relabel_changed: Annotated[
        bool, Field(description="Label shards again whose size or ETag changed.", json_schema_extra=_ONCE)
    ] = False

    @field_validator("output")
    @classmethod
    def _writable(cls, value: str) -> str:
        if scheme_of(value) not in ("file", "s3"):
            raise ValueError(f"outputs go to a local path or s3://, not to {scheme_of(value)}://")
        return normalise(value).rstrip("/") or "/"


class Budget(Group):
    """When a run stops, and what makes it a failure."""

    title = "Limits"

    limit: Annotated[int | None, Field(ge=1, description="Stop at the end of the part that reaches this many images.")] = None
    failure_budget: Annotated[float, Field(ge=0, le=1, description="Failures / images allowed before exit code 3.")] = 0.01
    allow_broken_shards: Annotated[int, Field(ge=0, description="Shards that may be truncated before exit code 3.")] = 0
    image_timeout_s: Annotated[
        float, Field(gt=0, le=86400, description="Seconds that decoding or labelling one image may take.")
    ] = 120.0
    idle_minutes: Annotated[
        float,
        Field(
            gt=0, description="Give up (exit code 5) when no image is labelled for so long (3 times --image-timeout-s at least)."
        ),
    ] = 30.0


class Forecasting(Group):
    """What a run would take."""

    title = "Forecast"

    dry_run: Annotated[
        bool, Field(description="Commit nothing: list, label 64 images, forecast time, size and price.", json_schema_extra=_ONCE)
    ] = False
    usd_per_core_hour: Annotated[float | None, Field(ge=0, description="Price of a core hour, for the forecast.")] = None


class Labelling(Reading, Network, Labels):
    """The flags of every job that labels images."""


class SegmentConfig(Labelling, Running, Budget, Forecasting):
    """The flags of `segment`; each field is a flag `--kebab-case` and a key of the TOML file."""

    def shape(self) -> dict[str, Any]:
        """The flags that shape the output, besides the fingerprint. They are fixed for an OUT."""
        return {name: getattr(self, name) for name in _SHAPE}


def groups_of(config: type[Group]) -> dict[str, dict[str, FieldInfo]]:
    """The fields of a config class by the title of their group, in the order in which the class inherits its groups."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for group in config.__mro__:
        if group is not Group and issubclass(group, Group) and "title" in vars(group):
            found[group.title] = {name: config.model_fields[name] for name in group.model_fields}
    return found


_SHAPE = (
    "part_images", "max_pixels", "max_source_pixels", "input_format", "image_column", "image_ext", "id_column", "confidence_map",
)  # fmt: skip


_TOML_BYTES = 1 << 20


def load_config(given: dict[str, Any], file: str | None = None) -> SegmentConfig:
    """The config from flags, then a TOML file, then defaults. Raises `UsageError`, with all faults on one line.

    given: flag -> value; None if the flag is not given, `DEFAULT` if it asks for the default.
    """
    values = _from_toml(file) if file else {}
    values |= {name: value for name, value in given.items() if value is not None}
    values = {name: value for name, value in values.items() if value is not DEFAULT}
    try:
        return SegmentConfig(**values)
    except ValidationError as error:
        raise UsageError(_one_line(error)) from error


def is_for_once(field: FieldInfo) -> bool:
    """Is this flag for one deliberate run, and so refused in a config file?"""
    return field.json_schema_extra == _ONCE


def _from_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_TOML_BYTES + 1)
        if len(data) > _TOML_BYTES:
            raise UsageError(f"--config {path}: more than {_TOML_BYTES >> 10} KiB, which is no list of flags")
        text = data.decode("utf-8-sig")
        values = {key.replace("-", "_"): value for key, value in tomllib.loads(text).items()}
    except OSError as error:
        raise UsageError(f"--config: {error.strerror}: {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}") from error
    for name, value in values.items():
        field = SegmentConfig.model_fields.get(name)
        if field is not None and is_for_once(field) and value:
            raise UsageError(f"--{name.replace('_', '-')} is for one deliberate run: give it as a flag, not in {path}")
    return values


def _one_line(error: ValidationError) -> str:
    lines = []
    names = chain.from_iterable(groups_of(SegmentConfig).values())
    order: dict[tuple[int | str, ...], int] = {(name,): number for number, name in enumerate(names)}  # as the help text has them
    for problem in sorted(error.errors(), key=lambda problem: order.get(problem["loc"][:1], len(order))):
        flag = "--" + str(problem["loc"][0]).replace("_", "-") if problem["loc"] else "config"
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {flag.removeprefix('--')}")
        elif problem["type"] == "missing":
            lines.append(f"{flag} is required")
        else:
            lines.append(f"{flag}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
