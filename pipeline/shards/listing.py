"""Inputs -> what to label: folders, prefixes, globs, lists and single files, streamed page by page."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fsspec.utils import glob_translate

from pipeline.errors import NotReachable, ObjectMissing, StorageError, UsageError
from pipeline.shards.base import Shard
from pipeline.shards.lists import read_list
from pipeline.shards.names import file_kind
from pipeline.storage import ObjectInfo, join, normalise, scheme_of, store_for, without_secrets

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_BRACES = 10_000_000


@dataclass(slots=True)
class Listing:
    """What a listing passed by: `ignored` objects of no known kind, and the secrets of presigned URIs."""

    ignored: int = 0
    secrets: dict[str, str] = field(default_factory=dict)


def list_inputs(
    inputs: Sequence[str],
    listing: Listing,
    *,
    input_format: str = "auto",
    image_column: str | None = None,
    output: str | None = None,
    allow_root: Sequence[str] = (),
) -> Iterator[Shard]:
    """Everything to label, in the order of the inputs and of the stores' listings.

    Objects below `output` are passed by. allow_root: see `read_list`. Raises `UsageError` for what cannot be read by
    design, `NotReachable` for inputs that are absent, empty or closed.
    """
    expanded = [piece for text in inputs for piece in _expand_braces(text)]
    found = 0
    for text in expanded:
        below = 0
        try:
            for entry in _one_input(text, listing, input_format, image_column, allow_root, single=len(expanded) == 1):
                if output is not None and entry.uri.startswith(output.rstrip("/") + "/"):
                    listing.ignored += 1
                    continue
                below += 1
                yield entry
        except StorageError as error:
            raise NotReachable(f"--input {without_secrets(text)}: {error}") from error
        if not below and len(expanded) > 1:
            raise NotReachable(f"--input {without_secrets(text)}: nothing to label there{_passed_by(listing)}")
        found += below
    if not found:
        raise NotReachable(f"--input {without_secrets(inputs[0])}: nothing to label there{_passed_by(listing)}")


def _passed_by(listing: Listing) -> str:
    return (
        f" ({listing.ignored} objects of other kinds)"
        if listing.ignored
        else " (no such file, folder or prefix, or an empty one)"
    )


def _expand_braces(text: str) -> Iterator[str]:
    """`shard-{000..127}.tar` -> 128 names, as WebDataset writes them."""
    found = _BRACES.search(text)
    if found is None:
        yield text
        return
    low, high = int(found[1]), int(found[2])
    if not 0 <= high - low <= MAX_BRACES:
        raise UsageError(f"--input {without_secrets(text)}: the range in braces is empty or too long")
    for number in range(low, high + 1):
        yield from _expand_braces(text[: found.start()] + str(number).zfill(len(found[1])) + text[found.end() :])


def _one_input(
    text: str, listing: Listing, input_format: str, image_column: str | None, allow_root: Sequence[str], *, single: bool
) -> Iterator[Shard]:
    uri = normalise(text)
    store = store_for(uri)
    kind = _kind(uri, input_format)
    magic = _MAGIC.search(uri) if scheme_of(uri) not in ("http", "https") else None
    info = (
        _stat_or_none(uri) if kind != "list" and not uri.endswith("/") and (kind != "other" or scheme_of(uri) == "file") else None
    )
    if info is not None:
        if kind == "other":
            raise UsageError(
                f"--input {without_secrets(uri)}: neither shard, image, list nor folder by its name; see --input-format"
            )
        yield from _entry(info, kind, uri.rpartition("/")[0] + "/", listing, single=single)
    elif magic is not None:
        folder = uri[: magic.start()].rpartition("/")[0] + "/"
        pattern = re.compile(glob_translate(uri))
        matches = (found for found in store.walk(folder) if pattern.match(found.uri))
        yield from _walked(matches, folder, listing, input_format, single=single)
    elif kind == "list":
        for entry in read_list(uri, image_column, allow_root):
            yield from _named(entry, listing)
    else:
        folder = uri.rstrip("/") + "/"
        yield from _walked(store.walk(folder), folder, listing, input_format, single=single)


def _stat_or_none(uri: str) -> ObjectInfo | None:
    """The object of this name; None where there is none, as the name may be a folder's or a glob."""
    try:
        return store_for(uri).stat(uri)
    except ObjectMissing:
        return None


def _kind(uri: str, input_format: str) -> str:
    """What one named input is; `--input-format` decides for names that do not say."""
    kind = file_kind(without_secrets(uri))
    if kind == "other" and input_format != "auto" and not uri.endswith("/"):
        return {"webdataset": "tar", "parquet": "parquet", "images": "image", "list": "list"}[input_format]
    if kind == "list" and input_format not in ("auto", "list"):
        return "other"
    return kind


def _walked(infos: Iterator[ObjectInfo], folder: str, listing: Listing, input_format: str, *, single: bool) -> Iterator[Shard]:
    wanted = {"webdataset": {"tar"}, "parquet": {"parquet"}, "images": {"image"}}.get(input_format, {"tar", "parquet", "image"})
    for info in infos:
        kind = file_kind(info.uri)
        if kind in wanted or kind == "compressed_tar":
            yield from _entry(info, kind, folder, listing, single=single)
        else:
            listing.ignored += 1


def _entry(info: ObjectInfo, kind: str, folder: str, listing: Listing, *, single: bool) -> Iterator[Shard]:
    uri = without_secrets(info.uri)
    try:
        uri.encode()
    except UnicodeEncodeError as error:  # no column of the output could name it
        raise UsageError(f"--input {uri!a}: its name is not UTF-8: rename it") from error
    if uri != info.uri:
        listing.secrets[uri] = info.uri
    if kind == "compressed_tar":
        raise UsageError(
            f"{uri}: a compressed tar cannot be read from the middle, so it cannot be resumed: unpack it first "
            "(gunzip FILE.tar.gz, or zstd -d FILE.tar.zst)"
        )
    if kind in ("tar", "parquet"):
        if info.size is None:
            raise UsageError(f"{uri}: the server does not say its size, so it cannot be read by ranges: copy it first")
        yield Shard(uri=uri, kind=kind, size=info.size, version=info.version)  # type: ignore[arg-type]
        return
    image_id = uri.removeprefix(folder) if single else uri
    yield Shard(uri=uri, kind="image", size=info.size, version=info.version, image_id=image_id)


def _named(uri: str, listing: Listing) -> Iterator[Shard]:
    """A line of a list: an image unless its name says shard. Images are not asked for before they are read."""
    kind = file_kind(without_secrets(uri))
    if kind in ("tar", "parquet", "compressed_tar"):
        info = ObjectInfo(uri, None, None) if kind == "compressed_tar" else store_for(uri).stat(uri)
        yield from _entry(info, kind, join(uri), listing, single=False)
    else:
        yield from _entry(ObjectInfo(uri, None, None), "image", "", listing, single=False)
