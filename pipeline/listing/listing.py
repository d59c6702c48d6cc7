"""Inputs -> source objects: folders, prefixes, globs, lists and single files, streamed page by page."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice

from fsspec.utils import glob_translate

from pipeline.errors import HostUnreachable, NotReachable, ObjectDenied, ObjectMissing, StorageError, UsageError
from pipeline.listing.allowed import require_sound
from pipeline.listing.lists import Line, read_list
from pipeline.listing.lookups import BraceLookup, expand_braces, looked_up
from pipeline.listing.twins import Twins
from pipeline.shards.base import SourceObject
from pipeline.shards.names import file_kind
from pipeline.storage import ObjectInfo, base_name, normalise, scheme_of, store_for, without_query, without_secrets
from pipeline.storage.uris import WEB, parted

_MAGIC = re.compile(r"[*?\[]")


@dataclass(slots=True)
class Listing:
    """What a listing finds besides source objects.

    ignored: number of objects that are skipped. secrets: URI as it is written down -> whole URI, if the two differ.
    queries: write queries down that tell images apart. False for outputs of format 1, which have none: so planned URIs are
    found again.
    """

    ignored: int = 0
    secrets: dict[str, str] = field(default_factory=dict)
    queries: bool = True


@dataclass(frozen=True, slots=True)
class _Reading:
    """How inputs are read."""

    listing: Listing
    input_format: str
    image_column: str | None
    roots: Sequence[str]

    def lines(self, uri: str) -> Iterator[Line]:
        """The entries of a list."""
        return read_list(uri, self.image_column, self.roots, spaces=not self.listing.queries)


@dataclass(frozen=True, slots=True)
class _Input:
    """One input; a brace pattern makes many of these."""

    text: str
    uri: str
    kind: str
    stat: BraceLookup

    @property
    def magic(self) -> int | None:
        """Position of the first `*`, `?` or `[` of a glob; None if there is none, and on the web."""
        found = _MAGIC.search(self.uri) if scheme_of(self.uri) not in WEB else None
        return None if found is None else found.start()

    def look(self) -> Callable[[], ObjectInfo | None] | None:
        """The call that looks for an object of this name; None if the name cannot be an object's."""
        named = self.kind != "list" and not self.uri.endswith("/") and (self.kind != "other" or scheme_of(self.uri) == "file")
        return partial(self.stat, self.uri) if named else None


def list_inputs(
    inputs: Sequence[str],
    listing: Listing,
    *,
    input_format: str = "auto",
    image_column: str | None = None,
    output: str | None = None,
    allow_root: Sequence[str] = (),
) -> Iterator[SourceObject]:
    """Everything to label, in the order of the inputs and of the stores' listings.

    Objects below `output` are skipped. allow_root: see `read_list`. Lists are read twice: the first time, before anything is
    yielded, to find bad lines. Raises `UsageError` for inputs that cannot be read by design, `NotReachable` for inputs that are
    absent, empty or closed.
    """
    reading = _Reading(listing, input_format, image_column, allow_root)
    _check(inputs, reading)
    pieces = _pieces(inputs, input_format)
    first = list(islice(pieces, 2))
    found, several = 0, len(first) > 1
    for piece, looked in looked_up(chain(first, pieces), _Input.look):
        below = 0
        try:
            info = None if looked is None else looked.result()
            for entry in _one_input(piece, info, reading, single=not several):
                if output is not None and entry.uri.startswith(output.rstrip("/") + "/"):
                    listing.ignored += 1
                    continue
                below += 1
                yield entry
        except StorageError as error:
            raise NotReachable(f"--input {without_secrets(piece.text)}: {error}") from error
        if not below and several:
            raise NotReachable(f"--input {without_secrets(piece.text)}: nothing to label there{_passed_by(listing)}")
        found += below
    if not found:
        raise NotReachable(f"--input {without_secrets(inputs[0])}: nothing to label there{_passed_by(listing)}")


def _passed_by(listing: Listing) -> str:
    return (
        f" ({listing.ignored} objects of other kinds)"
        if listing.ignored
        else " (no such file, folder or prefix, or an empty one)"
    )


def _normalised(text: str) -> str:
    try:
        uri = normalise(text)
        require_sound(uri, is_input=True)
    except UsageError as error:
        raise UsageError(f"--input: {error}") from error
    return uri


def _pieces(inputs: Sequence[str], input_format: str) -> Iterator[_Input]:
    for text in inputs:
        stat: BraceLookup | None = None
        for name in expand_braces(text):
            uri = _normalised(name)
            kind = _kind(uri, input_format)
            if stat is None:
                stat = BraceLookup(text if kind not in ("list", "other") and not uri.endswith("/") else uri)
            yield _Input(name, uri, kind, stat)


def _check(inputs: Sequence[str], reading: _Reading) -> None:
    """Refuse lists with lines that cannot be read, and URIs that would become one row unseen, before anything is planned."""
    twins, names = Twins(told_apart=reading.listing.queries), []
    for text in inputs:
        for name in expand_braces(text):
            uri = _normalised(name)
            is_list = _kind(uri, reading.input_format) == "list" and (scheme_of(uri) in WEB or not _MAGIC.search(uri))
            if not is_list and scheme_of(uri) not in WEB:
                break  # nor will the other names of this brace pattern be
            names.append(without_secrets(name))
            if not is_list:
                twins.add(uri, len(names) - 1, 0)
                continue
            try:
                for line in reading.lines(uri):
                    twins.add(line.uri, len(names) - 1, line.number)
            except StorageError as error:
                raise NotReachable(f"--input {names[-1]}: {error}") from error
    twins.refuse(names)


def _one_input(piece: _Input, info: ObjectInfo | None, reading: _Reading, *, single: bool) -> Iterator[SourceObject]:
    uri, kind, listing = piece.uri, piece.kind, reading.listing
    store = store_for(uri)
    if info is not None:
        if kind == "other":
            raise UsageError(
                f"--input {without_secrets(uri)}: neither shard, image, list nor folder by its name; see --input-format"
            )
        for entry in _entry(info, kind, "", listing, single=single):
            yield replace(entry, image_id=base_name(uri)) if single and entry.kind == "image" else entry
    elif (magic := piece.magic) is not None:
        folder = uri[:magic].rpartition("/")[0] + "/"
        pattern = re.compile(glob_translate(uri))
        matches = (found for found in store.walk(folder) if pattern.match(found.uri))
        yield from _walked(matches, folder, listing, reading.input_format, single=single)
    elif kind == "list":
        yield from _listed(uri, reading)
    else:
        folder = uri.rstrip("/") + "/"
        yield from _walked(store.walk(folder), folder, listing, reading.input_format, single=single)


def _kind(uri: str, input_format: str) -> str:
    """The kind of one named input. `--input-format` decides if the name does not say."""
    kind = file_kind(without_query(uri))
    if kind == "other" and input_format != "auto" and not uri.endswith("/"):
        return {"webdataset": "tar", "parquet": "parquet", "images": "image", "list": "list"}[input_format]
    if kind == "list" and input_format not in ("auto", "list"):
        return "other"
    return kind


def _walked(
    infos: Iterator[ObjectInfo], folder: str, listing: Listing, input_format: str, *, single: bool
) -> Iterator[SourceObject]:
    wanted = {"webdataset": {"tar"}, "parquet": {"parquet"}, "images": {"image"}}.get(input_format, {"tar", "parquet", "image"})
    for info in infos:
        kind = file_kind(without_query(info.uri))
        if kind in wanted or kind == "compressed_tar":
            yield from _entry(info, kind, folder, listing, single=single)
        else:
            listing.ignored += 1


def _entry(info: ObjectInfo, kind: str, folder: str, listing: Listing, *, single: bool) -> Iterator[SourceObject]:
    uri = _written(info.uri, listing)
    try:
        uri.encode()
    except UnicodeEncodeError as error:  # no column of the output could hold the name
        raise UsageError(f"--input {uri!a}: its name is not UTF-8: rename it") from error
    if kind == "compressed_tar":
        raise UsageError(
            f"{uri}: a compressed tar cannot be read from the middle, so it cannot be resumed: unpack it first "
            "(gunzip FILE.tar.gz, or zstd -d FILE.tar.zst)"
        )
    if kind in ("tar", "parquet"):
        if info.size is None:
            raise UsageError(f"{uri}: the server does not say its size, so it cannot be read by ranges: copy it first")
        yield SourceObject(uri=uri, kind=kind, size=info.size, version=info.version)  # type: ignore[arg-type]
        return
    image_id = uri.removeprefix(folder) if single else uri
    yield SourceObject(uri=uri, kind="image", size=info.size, version=info.version, image_id=image_id)


def _written(whole: str, listing: Listing) -> str:
    """A URI as it is written down. The listing keeps the whole URI for fetching, if the two differ."""
    uri = without_secrets(whole) if listing.queries else without_query(whole)
    if uri == whole:
        return uri
    before = listing.secrets.get(uri)
    if before is not None and before != whole and parted(before) != parted(whole):
        raise UsageError(f"{uri}: named twice, with different queries of which not all may be written down: one image or two?")
    listing.secrets[uri] = whole
    return uri


def _listed(uri: str, reading: _Reading) -> Iterator[SourceObject]:
    """The entries of a list: single images, unless their names say that they are shards. Only shards are looked at now.

    A shard that is gone, closed or unreachable is still planned, and becomes one failure, as such an image does. If the whole
    list has no other entries, raises `NotReachable`: the store itself cannot be reached.
    """
    held: list[SourceObject] = []
    answered, failed = False, ""
    lines = ((line, _line_kind(line)) for line in reading.lines(uri))
    for (line, kind), looked in looked_up(lines, _look):
        try:
            info = ObjectInfo(line.uri, None, None) if looked is None else looked.result()
            found = list(_entry(info, kind, "", reading.listing, single=False))
            answered = True
        except (ObjectMissing, ObjectDenied, HostUnreachable) as error:
            unseen = SourceObject(uri=_written(line.uri, reading.listing), kind=kind, size=None, version=None)  # type: ignore[arg-type]
            found, failed = [unseen], failed or f"{_where(uri, line)}: {error}"
        except UsageError as error:
            raise UsageError(f"{_where(uri, line)}: {error}") from error
        except StorageError as error:
            raise NotReachable(f"{_where(uri, line)}: {error}") from error
        held += found
        if answered:
            yield from held
            held.clear()
    if held:
        raise NotReachable(failed)


def _line_kind(line: Line) -> str:
    kind = file_kind(without_query(line.uri))
    return kind if kind in ("tar", "parquet", "compressed_tar") else "image"


def _where(uri: str, line: Line) -> str:
    return f"--input {without_secrets(uri)}: line {line.number}"


def _look(entry: tuple[Line, str]) -> Callable[[], ObjectInfo] | None:
    """The call that looks at a shard; None for single images, and for names that are refused."""
    line, kind = entry
    return partial(store_for(line.uri).stat, line.uri) if kind in ("tar", "parquet") else None
