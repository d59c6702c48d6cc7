"""Checks one file of a run against its name, its footer and the plan: columns, keys, bytes, labels."""

import base64
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged
from pipeline.labels.statistics import LEVELS
from pipeline.output.footer import CHECKSUM_KEY, FOOTER_KEY, PartFooter, footer_length, footer_of, parquet_bytes
from pipeline.output.parts import PartName
from pipeline.plan.fingerprint import fingerprint
from pipeline.plan.plan import SETTINGS_KEY
from pipeline.schema import PLAN, masks_schema
from pipeline.verify.pixels import check_labels
from pipeline.verify.rules import Rules, require

_ARROW_SCHEMA = b"ARROW:schema"
_NULLABLE = {"member", "offset", "length", "path"}
_WRITER = re.compile(r"parquet-cpp-arrow version \d+\.\d+\.\d+(-[\w.]+)?")


@dataclass(frozen=True, slots=True)
class Planned:
    """A part, and what the plan says of it. uris: of the plan rows that the part covers; None for a shard."""

    name: PartName
    source: dict[str, Any]
    uris: pa.StringArray | None = None
    superseded: frozenset[int] = frozenset()

    def keys(self) -> list[tuple[str, int]]:
        """(shard, index) of every row that the part must have, as a mask or as a failure."""
        if self.uris is None:
            return [(self.source["uri"], index) for index in range(self.name.first, self.name.stop)]
        rows = enumerate(self.uris.to_pylist(), self.name.first)
        return [(uri, 0) for row, uri in rows if row not in self.superseded]


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A Parquet file of a run. mine: does the file name the Arrow version of this process as its writer?"""

    table: pa.Table
    metadata: dict[bytes, bytes]
    mine: bool


def open_file(data: bytes) -> OpenFile:
    """Read a Parquet file of a run. Raises `Damaged` unless every byte is what maskfleet writes for its table.

    Checksums cover only the pages. The bytes around the pages are checked by writing the table again. If this Arrow wrote the
    file, equal length with other bytes is damage; another length only means another zstd. If another Arrow wrote the file,
    only the contents are checked.
    """
    require(data[:4] == b"PAR1", "not a Parquet file, or a damaged one: it does not begin with PAR1")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        metadata = dict(file.metadata.metadata or {})
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata.pop(_ARROW_SCHEMA), validate=True)))
        table = file.read(use_threads=False).combine_chunks().cast(schema)  # Parquet names list items in its own way
        table.validate(full=True)
        groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        stored = {
            key: metadata.pop(key) for key in (FOOTER_KEY, CHECKSUM_KEY) if key in metadata and key not in (schema.metadata or {})
        }
        again = parquet_bytes(table, stored, row_group_size=groups[0] if len(groups) > 1 else None)
        mine = file.metadata.created_by == pq.read_metadata(pa.BufferReader(again)).created_by
        data = _without_padding(data, file.metadata)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, MemoryError):
            raise
        raise Damaged(f"cannot be read: {(str(error).splitlines() or [''])[0][:200]}") from error
    require((schema.metadata or {}) == metadata, "its metadata is stored twice, and the copies differ")
    require(sum(groups) == table.num_rows and len(set(groups[:-1])) <= 1, "its row groups are not those that were written")
    require(mine or _WRITER.fullmatch(file.metadata.created_by or ""), "it was not written by Arrow")
    require(not mine or len(again) != len(data) or again == data, "some bytes are not those that were written")
    return OpenFile(table, metadata | stored, mine)


def _without_padding(data: bytes, metadata: pq.FileMetaData) -> bytes:
    """The file without its padding: zeros between the last page and the footer, so that the size says the number of rows."""
    columns = (
        metadata.row_group(group).column(number)
        for group in range(metadata.num_row_groups)
        for number in range(metadata.num_columns)
    )
    ends = (
        (column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset) + column.total_compressed_size
        for column in columns
    )
    end, footer = max(ends, default=4), len(data) - footer_length(data)
    require(0 <= end <= footer and not any(data[end:footer]), "bytes between its pages and its footer")
    return data[:end] + data[footer:]


def _is_like(schema: pa.Schema, wanted: pa.Schema) -> bool:
    """Are names and types equal? Names inside lists count too; `equals` does not compare these."""
    return bool(schema.equals(wanted)) and [str(kind) for kind in schema.types] == [str(kind) for kind in wanted.types]


def same_file(data: bytes, table: pa.Table) -> bool:
    """Does a Parquet file hold this table? Raises `Damaged`."""
    found = open_file(data).table
    return _is_like(found.schema, table.schema) and bool(found.equals(table))


def check_plan_file(data: bytes) -> str:
    """Check a plan file -> the fingerprint of its settings. Raises `Damaged`."""
    table = open_file(data).table
    require(_is_like(table.schema, PLAN), "not the columns of a plan")
    kinds, uris = table.column("kind").unique().to_pylist(), table.column("uri")
    require(kinds == ["image"] or (kinds and {*kinds} <= {"tar", "parquet"}), f"it plans {kinds}")
    require(len(uris.unique()) == len(uris) and not uris.null_count, "it names an object twice")
    try:
        settings = json.loads(table.schema.metadata[SETTINGS_KEY])
        rules = Rules.of(settings)
        require(fingerprint(settings["labels"]) == rules.fingerprint, "its fingerprint is not that of its settings")
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged("its settings cannot be read") from error
    return rules.fingerprint


def check_part(data: bytes, planned: Planned, rules: Rules, *, deep: bool) -> PartFooter:
    """Check a part against its name, its footer and the plan -> its footer. Raises `Damaged` with the first difference."""
    found = open_file(data)
    table = found.table
    footer = footer_of(found.metadata)
    metadata = {key: value for key, value in found.metadata.items() if key not in (FOOTER_KEY, CHECKSUM_KEY)}
    schema = masks_schema(confidence_map=rules.confidence_map)
    name = planned.name
    require(
        footer.name == name,
        f"its footer says that it is {footer.name}, {_extent(footer.name)}; its name and its size say {_extent(name)}",
    )
    require(footer.part_images in (0, rules.part_images), f"parts of this run have at most {rules.part_images} rows")
    require(footer.source == planned.source, "its footer names another source than the plan")
    require(footer.fingerprint == rules.fingerprint, f"made with other settings than the plan's: {footer.fingerprint[:16]}…")
    for what, wanted in rules.made_with.items():
        made_with = footer.versions.get(what, wanted)  # footers of format 1 do not hold the labels' version
        require(made_with == wanted, f"made with {what} {made_with}, the plan says {wanted}: parts must not mix them")
    require(_is_like(table.schema, schema) and metadata == schema.metadata, "its columns are not those of this run")
    require(
        not any(_nulls(field.name, table.column(field.name).combine_chunks()) for field in schema), "a null where a value must be"
    )
    require(
        found.mine or footer.versions.get("pyarrow") != pa.__version__, "its footer and its header name two versions of Arrow"
    )
    require(footer.masks == table.num_rows, f"{table.num_rows} rows; its footer says {footer.masks}")
    require(footer.last or footer.after.index == name.stop, f"its footer goes on at {footer.after.index}, not at {name.stop}")
    _check_keys(table, footer, planned)
    _check_columns(table, footer, rules)
    if deep:
        check_labels(table, footer, rules)
    return footer


def _extent(name: PartName) -> str:
    return f"{name.rows} rows{', the last' if name.last else ''}"


def _nulls(name: str, column: pa.Array) -> bool:
    """Does a column hold a null that is not allowed, at any depth?"""
    if name in _NULLABLE:
        return False
    if column.null_count:
        return True
    if pa.types.is_struct(column.type):
        return any(_nulls(field.name, column.field(number)) for number, field in enumerate(column.type))
    return pa.types.is_list(column.type) and _nulls("", column.flatten())


def _check_keys(table: pa.Table, footer: PartFooter, planned: Planned) -> None:
    """Raise `Damaged` unless each planned (shard, index) is there once, as a mask or as a failure."""
    have = Counter(zip(table.column("shard").to_pylist(), table.column("index").to_pylist(), strict=True))
    have.update((failure.shard, failure.index) for failure in footer.failures)
    wanted = Counter(planned.keys())
    if strange := have - wanted:
        key = min(strange)
        raise Damaged(f"{key[0]} #{key[1]} {'is there twice' if key in wanted else 'is not in its range'}")
    if lacking := wanted - have:
        raise Damaged("it has no row of {} #{}".format(*min(lacking)))


def _check_columns(table: pa.Table, footer: PartFooter, rules: Rules) -> None:
    """Raise `Damaged` unless the sums in the footer are those of the columns."""
    count = len(rules.classes)
    images, pixels = [0] * count, [0] * count
    area = sum(w * h for w, h in zip(table.column("width").to_pylist(), table.column("height").to_pylist(), strict=True))
    for found in (found for row in table.column("classes").to_pylist() for found in row):
        class_id = found["class_id"]
        require(
            0 <= class_id < count and found["name"] == rules.classes[class_id],
            f"class {class_id} {found['name']!r} is not in the run",
        )
        images[class_id] += 1
        pixels[class_id] += found["pixels"]
    require(footer.pixels == area, f"{area} pixels; its footer says {footer.pixels}")
    require(list(footer.images_by_class) == images, "its images by class are not those of its rows")
    require(list(footer.pixels_by_class) == pixels, "its pixels by class are not those of its rows")
    histograms = footer.histograms
    require(histograms.shape == (count, LEVELS) and histograms.sum() == area, "its histograms are not of its pixels")
    require(histograms[:, rules.min_level :].sum(axis=1).tolist() == pixels, "its histograms are not of its classes")


def short(value: object) -> str:
    """A value as text for a message, at most 70 characters."""
    text = str(value)
    return text if len(text) <= 70 else text[:69] + "…"
