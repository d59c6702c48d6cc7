"""Reads the photographs of a run, if they may be read and are still those that were planned."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import PILLOW_MAX_PIXELS, encoded_bytes_limit
from pipeline.errors import ObjectChanged, ObjectTooLarge, OutsideInputs, UsageError
from pipeline.listing.allowed import allowed_schemes, is_below
from pipeline.output.run_view import RunView
from pipeline.plan.plan import read_plan_rows
from pipeline.shards.base import SourceObject
from pipeline.shards.names import file_kind
from pipeline.shards.parquet import ParquetRows
from pipeline.storage import ObjectInfo, Store, normalise, scheme_of, store_for, without_query
from pipeline.storage.base import same_version

_MAGIC = re.compile(r"[*?\[{]")
_UPWARDS = re.compile(r"^(?:~[^/]*/?|(?:\.\./?)+)")
_CHUNK = 1_024  # so many rows of a plan file are kept: the rows of `masks` have the same order


class Photographs:
    """Reads the encoded photographs that rows of a run name.

    Anybody may have written a row into a file. So a row is followed only if the plan has its shard and an input of `run.json` may
    have named the shard, or if the shard lies below one of `allow_root`. Without `allow_root`, a local file must also have the
    name of an image or shard.
    """

    def __init__(
        self, run: RunView, info: Mapping[str, Any], allow_root: Sequence[str] = (), *, check_version: bool = True
    ) -> None:
        self._run, self._check_version = run, check_version
        self._roots = [normalise(root) for root in allow_root]
        shape = info.get("shape", {})
        self._column: str | None = shape.get("image_column")
        self._format: str = shape.get("input_format", "auto")
        self._max_bytes = encoded_bytes_limit(shape.get("max_source_pixels", PILLOW_MAX_PIXELS))
        self._inputs: list[str] = info.get("input", [])
        self._chunk: dict[int, SourceObject] = {}
        self._chunk_of = ""
        self._open: list[ParquetRows] = []  # the Parquet shard that was read last, if any

    def __getstate__(self) -> dict[str, Any]:
        """State for pickle, without open files: these stay in their process."""
        return self.__dict__ | {"_open": []}

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The encoded image of a row of `masks`. Raises like `Run.image`."""
        uri, offset, length = row["shard"], row["offset"], row["length"]
        planned = self._allowed(uri)
        expected = (
            planned if planned is not None and self._check_version else SourceObject(uri=uri, kind="tar", size=None, version=None)
        )
        store = store_for(uri)
        if offset is None:
            if row["index"] < 0:
                raise ObjectChanged(f"it has no image {row['index']}: {uri}")
            return self._of_parquet(store, self._seen(store, expected), row["index"])
        if offset < 0 or not 0 <= length <= self._max_bytes:
            raise ObjectChanged(f"no photograph lies there, at {offset} with {length} bytes: {uri}")
        if planned is not None and planned.kind == "image":
            return self._whole(store, expected, length)
        unchecked = expected.size is None and scheme_of(uri) != "file"  # remote stores raise for a short answer
        seen = expected if unchecked else self._seen(store, expected)
        if seen.size is not None and offset + length > seen.size:
            raise ObjectChanged(f"shorter than it was when it was labelled: {uri}")
        return store.read(uri, offset, length, seen.version)

    def _of_parquet(self, store: Store, info: ObjectInfo, index: int) -> bytes:
        """The encoded image of one row. The last open file is used again: else its row group is unpacked from the beginning."""
        try:
            rows = self._open.pop()  # no other thread can use it now, and it is gone if reading fails
        except IndexError:
            rows = None
        if rows is None or rows.info != info or info.version is None:  # without a version, the object may be another by now
            rows = ParquetRows(store, info, self._column)
        data = rows.read(index)
        self._open[:] = [rows]
        return data

    def _whole(self, store: Store, image: SourceObject, length: int) -> bytes:
        """The bytes of a single image. Raises `ObjectChanged` if their number is not `length`."""
        if scheme_of(image.uri) not in ("file", "s3") and image.version is not None:
            self._seen(store, image)
        try:
            data = store.read(image.uri, 0, None, image.version, length)
        except ObjectTooLarge as error:
            raise ObjectChanged(f"longer than it was when it was labelled: {image.uri}") from error
        if len(data) != length:
            raise ObjectChanged(f"shorter than it was when it was labelled: {image.uri}")
        return data

    def _seen(self, store: Store, expected: SourceObject) -> ObjectInfo:
        """The object as it is now. Raises `ObjectChanged` if it is not the planned one; S3 checks this when bytes are read."""
        uri = expected.uri
        if scheme_of(uri) == "s3" and expected.size is not None:
            return ObjectInfo(uri, expected.size, expected.version)
        found = store.stat(uri)
        if (expected.size is not None and found.size is not None and found.size != expected.size) or (
            expected.version is not None and found.version is not None and not same_version(found.version, expected.version)
        ):
            raise ObjectChanged(f"changed since it was labelled (check_version=False reads it all the same): {uri}")
        return found

    def _allowed(self, uri: str) -> SourceObject | None:
        """The planned shard or image of this URI; None if `allow_root` allows it without a plan. Raises `OutsideInputs`."""
        if uri != _normalised(uri):
            raise OutsideInputs(f"not read, as it is no URI that a run writes: {uri!a:.200}")
        planned = self._planned(uri)
        if self._roots:
            if any(is_below(uri, root) for root in self._roots):
                return planned
            raise OutsideInputs(f"not read, as it lies below no allow_root: {uri}")
        if scheme_of(uri) == "file" and file_kind(uri) not in ("tar", "parquet", "image"):
            raise OutsideInputs(
                f"not read, as its name is no photograph's or shard's (open_run(…, allow_root=…) allows it): {uri}"
            )
        if (planned is None and self._run.plan_if_any is not None) or not any(self._may_name(text, uri) for text in self._inputs):
            raise OutsideInputs(f"not read, as it is no input of this run (open_run(…, allow_root=…) allows it): {uri}")
        return planned

    def _planned(self, uri: str) -> SourceObject | None:
        if (plan := self._run.plan_if_any) is None:
            return None
        if (shard := plan.shards.get(uri)) is not None:
            return shard
        (found,) = plan.known.find([uri])
        if found is None:
            return None
        name, row = plan.files[found[0]].name, found[1]
        if self._chunk_of != name or row not in self._chunk:
            self._chunk_of, self._chunk = name, dict(read_plan_rows(self._run.out, name, row, row + _CHUNK))
        image = self._chunk[row]
        return image if image.uri == uri else None

    def _may_name(self, text: str, uri: str) -> bool:
        """May this input have named this URI? text: the input as `run.json` has it.

        A list may have named any URI that lists may name; local files only if the list is local. The plan says which of them it
        named. Runs of older versions have relative paths as they were given. Their folder is not known any more, so such a path
        must be a part of the URI's path.
        """
        if (given := _normalised(text)) is None:
            return False
        given = without_query(given)  # plans of older versions hold no queries
        kind = file_kind(given)
        if (kind == "list" and self._format in ("auto", "list")) or (kind == "other" and self._format == "list"):
            return scheme_of(uri) in allowed_schemes(given)
        if is_below(uri, _root(given)):
            return True
        if scheme_of(uri) != "file" or "://" in text or text.startswith("/"):
            return False
        way = _UPWARDS.sub("", os.path.normpath(_root(text)))
        return way in ("", ".") or f"/{way}/" in f"{uri}/"


def _normalised(uri: str) -> str | None:
    """The normalised URI; None if it cannot be normalised."""
    try:
        return normalise(uri)
    except UsageError:
        return None


def _root(text: str) -> str:
    """The folder or URI below which all objects lie that an input may name."""
    magic = _MAGIC.search(text)
    return text if magic is None else "".join(text[: magic.start()].rpartition("/")[:2])
