"""Lists of URIs: `.txt`, `.csv`, `.jsonl`, read line by line. A list from elsewhere may not name everything."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.errors import ObjectTooLarge, UsageError
from pipeline.listing.allowed import MAX_URI, allowed_schemes, require_allowed, require_readable, require_sound
from pipeline.shards.range_file import RangeFile
from pipeline.storage import base_name, normalise, scheme_of, store_for, without_secrets

COLUMNS = ("uri", "url", "path", "image", "image_uri", "image_url", "image_path", "file", "filename", "file_name")
_MAX_LINE = 1 << 20  # characters
MAX_UNTOLD_BYTES = 256 << 20  # largest list without a known size: such a list is held in memory


class Line(NamedTuple):
    """An entry of a list: the number of its last line, from 1, and its normalised URI."""

    number: int
    uri: str


def read_list(uri: str, column: str | None, roots: Sequence[str] = (), *, spaces: bool = False) -> Iterator[Line]:
    """The entries of a list; relative ones are relative to the list. Blank lines are skipped, in a `.txt` also `#` lines.

    A `.csv` has a header, or only one column; a `.jsonl` has strings, or objects with the column.
    roots: every entry must lie at or below one of these. Without roots, an entry must have one of `allowed.SCHEMES` or the
    scheme of the list's own store: so a local list may name local files, because its user could put it there.
    spaces: URLs may hold spaces.
    Raises `UsageError` with the number of a line that cannot be read, or that names something that no list may name.
    """
    allowed, schemes, shown = [normalise(root) for root in roots], allowed_schemes(uri), without_secrets(uri)
    name = base_name(uri).lower()
    place = uri if scheme_of(uri) in ("file", "s3") else uri.partition("?")[0]  # a query may hold slashes
    folder = place.rpartition("/")[0]
    with _text(uri) as text:
        lines = _bounded(text, shown)
        if name.endswith(".csv"):
            found = _csv(lines, column, shown)
        elif name.endswith(".jsonl"):
            found = _jsonl(lines, column, shown)
        else:
            found = _txt(lines)
        try:
            for number, entry in found:
                if not entry:
                    continue
                try:
                    if len(entry) > MAX_URI:
                        require_sound(entry)
                    relative = "://" not in entry and not entry.startswith(("/", "~"))
                    line = Line(number, normalise(f"{folder}/{entry}" if relative else entry))
                    require_allowed(line.uri, schemes, allowed)
                    require_sound(line.uri, spaces=spaces)
                    require_readable(scheme_of(line.uri))
                except UsageError as error:
                    raise UsageError(f"--input {shown}: line {number}: {error}") from error
                yield line
        except UnicodeDecodeError as error:
            raise UsageError(f"--input {shown}: not UTF-8 text") from error


def _text(uri: str) -> io.TextIOWrapper:
    store = store_for(uri)
    info = store.stat(uri)
    if info.size is None:
        try:
            data = store.read(uri, max_bytes=MAX_UNTOLD_BYTES)
        except ObjectTooLarge as error:
            limit = f"{MAX_UNTOLD_BYTES >> 20} MiB"
            raise UsageError(
                f"--input {without_secrets(uri)}: more than {limit}, and its server does not say how much: copy it to a disk"
            ) from error
        return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig")
    return io.TextIOWrapper(io.BufferedReader(RangeFile(store, info)), "utf-8-sig")


def _bounded(text: io.TextIOWrapper, uri: str) -> Iterator[str]:
    """The lines. Raises `UsageError` for a line that is too long, before all of it is in memory."""
    number = 0
    while line := text.readline(_MAX_LINE + 1):
        number += 1
        if len(line) > _MAX_LINE:
            raise UsageError(f"--input {uri}: line {number} has more than {_MAX_LINE:,} characters")
        yield line


def _txt(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if not entry.startswith("#"):
            yield number, entry


def _pick(names: list[str], column: str | None, uri: str, line: int = 1) -> str | None:
    if column is not None:
        if column not in names:
            raise UsageError(f"--input {uri}: line {line}: no column {column!r}; there are {', '.join(names[:10])}")
        return column
    return next((name for name in names if name.strip().lower() in COLUMNS), None)


def _csv(lines: Iterator[str], column: str | None, uri: str) -> Iterator[tuple[int, str]]:
    rows = csv.reader(lines)
    try:
        header = next(rows, [])
        name = _pick(header, column, uri)
        if name is None and len(header) > 1:
            raise UsageError(f"--input {uri}: which column holds the URIs? Name it with --image-column: {', '.join(header[:10])}")
        at = 0 if name is None else header.index(name)
        if name is None and header:
            yield rows.line_num, header[0].strip()
        for row in rows:
            if len(row) > at:
                yield rows.line_num, row[at].strip()
    except csv.Error as error:
        raise UsageError(f"--input {uri}: line {rows.line_num}: {error}") from error


def _jsonl(lines: Iterator[str], column: str | None, uri: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--input {uri}: line {number} is not JSON: {error}") from error
        if isinstance(value, dict):
            name = _pick([str(key) for key in value], column, uri, number)
            value = value.get(name) if name is not None else None
        if not isinstance(value, str):
            raise UsageError(
                f"--input {uri}: line {number} holds no URI (a string, or an object with {', '.join(COLUMNS[:3])}, …)"
            )
        yield number, value.strip()
