"""Lists of URIs: `.txt`, `.csv`, `.jsonl`, read line by line. What a list from elsewhere may name is limited."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from pipeline.errors import UsageError
from pipeline.storage import base_name, normalise, scheme_of, store_for, without_secrets
from pipeline.storage.stream import RangeFile

COLUMNS = ("uri", "url", "path", "image", "image_uri", "image_url", "image_path", "file", "filename", "file_name")


def read_list(uri: str, column: str | None, roots: Sequence[str] = ()) -> Iterator[str]:
    """The URIs of a list, normalised; relative ones are relative to the list. Blank lines and `#` lines pass.

    A `.csv` has a header, or one column; `.jsonl` has strings, or objects with the column.
    roots: all that it may name lies at or below one of them. Without roots a local list, which lies where its user could put it,
    may name anything, and one that was read from elsewhere no local file.
    Raises `UsageError` with the number of the line that cannot be read, or the URI that the list may not name.
    """
    allowed, shown = [normalise(root) for root in roots], without_secrets(uri)
    name = base_name(uri).lower()
    place = uri if scheme_of(uri) in ("file", "s3") else uri.partition("?")[0]  # a query may hold slashes
    folder = place.rpartition("/")[0]
    with _lines(uri) as lines:
        if name.endswith(".csv"):
            found = _csv(lines, column, shown)
        elif name.endswith(".jsonl"):
            found = _jsonl(lines, column, shown)
        else:
            found = (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
        try:
            for entry in found:
                if entry:
                    relative = scheme_of(entry) == "file" and "://" not in entry and not entry.startswith(("/", "~"))
                    yield _allowed(normalise(f"{folder}/{entry}" if relative else entry), shown, allowed)
        except UnicodeDecodeError as error:
            raise UsageError(f"--input {shown}: not UTF-8 text") from error


def _allowed(entry: str, uri: str, roots: Sequence[str]) -> str:
    if roots:
        if not any(_is_below(entry, root) for root in roots):
            raise UsageError(f"--input {uri}: it names {without_secrets(entry)}, which lies below no --allow-root")
    elif scheme_of(entry) == "file" and scheme_of(uri) != "file":
        raise UsageError(
            f"--input {uri}: it names a local file, {entry}: a list from elsewhere may do so only with --allow-root {entry}"
        )
    return entry


def _is_below(entry: str, root: str) -> bool:
    """By whole components; `..` cannot lead out: local URIs have none, and in stores it is a name like any other."""
    path = entry.partition("?")[0] if scheme_of(entry) in ("http", "https") else entry
    if scheme_of(entry) in ("http", "https") and "/.." in path.replace("%2e", ".").replace("%2E", "."):
        return False
    return path == root or path.startswith(root.rstrip("/") + "/")


def _lines(uri: str) -> io.TextIOWrapper:
    store = store_for(uri)
    info = store.stat(uri)
    if info.size is None:
        return io.TextIOWrapper(io.BytesIO(store.read(uri)), "utf-8-sig")
    return io.TextIOWrapper(io.BufferedReader(RangeFile(store, info)), "utf-8-sig")


def _pick(names: list[str], column: str | None, uri: str, line: int = 1) -> str | None:
    if column is not None:
        if column not in names:
            raise UsageError(f"--input {uri}: line {line}: no column {column!r}; there are {', '.join(names[:10])}")
        return column
    return next((name for name in names if name.strip().lower() in COLUMNS), None)


def _csv(lines: io.TextIOWrapper, column: str | None, uri: str) -> Iterator[str]:
    rows = csv.reader(lines)
    try:
        header = next(rows, [])
        name = _pick(header, column, uri)
        if name is None and len(header) > 1:
            raise UsageError(f"--input {uri}: which column holds the URIs? Name it with --image-column: {', '.join(header[:10])}")
        at = 0 if name is None else header.index(name)
        if name is None and header:
            yield header[0].strip()
        for row in rows:
            if len(row) > at:
                yield row[at].strip()
    except csv.Error as error:
        raise UsageError(f"--input {uri}: line {rows.line_num}: {error}") from error


def _jsonl(lines: io.TextIOWrapper, column: str | None, uri: str) -> Iterator[str]:
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
        yield value.strip()
