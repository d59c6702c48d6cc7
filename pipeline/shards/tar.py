"""WebDataset tars, streamed from any member on, with one member in memory at a time."""

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from tarfile import EmptyHeaderError, EOFHeaderError, TruncatedHeaderError  # type: ignore[attr-defined]

from pipeline.errors import AmbiguousImage, BrokenShard, ImageTooLarge, LinkMember
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject, seen
from pipeline.shards.names import is_image_member, key_and_extension
from pipeline.shards.range_file import RangeFile
from pipeline.shards.tar_headers import HeaderFile, MemberHeaders
from pipeline.storage import scheme_of
from pipeline.storage.base import ObjectInfo, Store

_BLOCK = tarfile.BLOCKSIZE
_BEGINNING = Cursor()


@dataclass(frozen=True, slots=True)
class Member:
    """One image member, as its header describes it.

    header, data, end: byte offsets of its first header, of its bytes, and of the header after it. size: bytes.
    is_file: False for links, devices and sparse members, which hold no image bytes of their own.
    """

    name: str
    header: int
    data: int
    size: int
    end: int
    is_file: bool


class _Truncated(Exception):
    """The rest of the tar cannot be read."""


def read_tar(store: Store, shard: SourceObject, start: Cursor, options: ReadOptions) -> Iterator[EncodedImage]:
    """The images of a tar from `start` on. If the tar is truncated, the last item says so. Storage errors are raised.

    An image is held back until the next member is known: if the two have one key but two extensions, the key is ambiguous, and
    neither image can be labelled.
    """
    shard = seen(store, shard)
    assert shard.size is not None
    info = ObjectInfo(shard.fetch_uri, shard.size, shard.version)
    held: EncodedImage | None = None
    at = start
    with RangeFile(store, info) as file:
        try:
            if start.index and start.offset is None:
                start = at = _found(file, shard.size, start.index, options.image_ext)
            previous = start.previous
            for member in _members(file, shard.size, start.offset or 0, options.image_ext):
                twins = _twins(previous, member.name)
                if held is not None:
                    yield replace(held, error=_ambiguous(previous, member.name), data=None) if twins else held
                    held = None  # else this image stays in memory beside the next one
                at = Cursor(at.index + 1, member.end, member.name)
                held = _image(file, shard, member, at, options)
                if twins:
                    held = replace(held, error=_ambiguous(previous, member.name), data=None)
                previous = member.name
        except _Truncated as broken:
            if held is not None:
                yield held
            yield EncodedImage(
                shard=shard.uri, index=at.index, image_id=f"{shard.uri}#{at.index}", after=at,
                error=BrokenShard(str(broken)), truncated=True,
            )  # fmt: skip
            return
    if held is not None:
        yield held


def _found(file: RangeFile | HeaderFile, size: int, index: int, wanted: str | None) -> Cursor:
    """The cursor of an index whose offset is not known, from the headers before it. Raises `_Truncated`."""
    at = Cursor()
    for member in islice(_members(file, size, 0, wanted), index):
        at = Cursor(at.index + 1, member.end, member.name)
    if at.index < index:
        raise _Truncated(f"the tar ends before image {index}")
    return at


def part_starts(
    store: Store, shard: SourceObject, options: ReadOptions, part_images: int, part_bytes: int, start: Cursor = _BEGINNING
) -> Iterator[Cursor]:
    """Where the parts of a tar begin, from its headers alone, yielded as they are found. The first is `start`.

    Ends where the tar is truncated. Raises `StorageError`.
    """
    shard = seen(store, shard)
    assert shard.size is not None
    images = size = 0
    info = ObjectInfo(shard.fetch_uri, shard.size, shard.version)
    with HeaderFile(store, info, streams=scheme_of(shard.fetch_uri) != "file") as file, suppress(_Truncated):
        at = Cursor(start.index, start.offset or 0, start.previous)
        if start.index and start.offset is None:
            at = _found(file, shard.size, start.index, options.image_ext)
        yield at
        previous: Member | None = None
        for member in _members(file, shard.size, at.offset or 0, options.image_ext):
            if previous is not None and (images >= part_images or size >= part_bytes):
                at = Cursor(at.index + images, previous.end, previous.name)
                yield at
                images = size = 0
            images += 1
            size += member.size if member.is_file and member.size <= options.max_encoded_bytes else 0
            previous = member


def _members(file: RangeFile | HeaderFile, size: int, offset: int, wanted: str | None) -> Iterator[Member]:
    """The image members from a header offset on. Raises `_Truncated` if the tar cannot be read any further."""
    tar = tarfile.TarFile.__new__(tarfile.TarFile)  # has only what TarInfo.fromtarfile asks for, and keeps no members
    tar.fileobj = headers = MemberHeaders(file)  # type: ignore[assignment]  # has only the methods that are used
    tar.encoding, tar.errors, tar.pax_headers = "utf-8", "surrogateescape", {}
    while True:
        headers.seek(offset)
        try:
            info = tarfile.TarInfo.fromtarfile(tar)
        except EmptyHeaderError:  # no end marker, as in an empty tar: not truncated
            return
        except EOFHeaderError:
            _check_end(file, offset)
            return
        except TruncatedHeaderError as error:
            file.seek(offset)
            if any(file.read()):  # else the file ends inside its end marker
                raise _Truncated(f"damaged tar header at byte {offset}: {error}") from error
            return
        except (tarfile.HeaderError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
            raise _Truncated(f"damaged tar header at byte {offset}: {error}") from error
        sparse = info.issparse()
        after: int = tar.offset
        if after <= offset or info.size < 0:
            raise _Truncated(f"damaged tar header at byte {offset}: it points backwards")
        name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        body_ends = info.offset_data + (info.size if info.isreg() and not sparse else 0)
        if body_ends > size or after >= size + _BLOCK:  # the padding of the last member may be missing
            short = max(body_ends, after - _BLOCK + 1) - size
            raise _Truncated(f"the tar ends inside member {name.rpartition('/')[2]!r}, {short} bytes short")
        if not info.isdir() and is_image_member(key_and_extension(name)[1], wanted):
            yield Member(name, offset, info.offset_data, info.size, after, info.isreg() and not sparse)
        offset = after


def _check_end(file: RangeFile | HeaderFile, offset: int) -> None:
    """Raise `_Truncated` if anything but zeros follows the end marker: else images would be lost in silence."""
    file.seek(offset)
    while piece := file.read(1 << 20):
        if piece.count(0) != len(piece):
            raise _Truncated(f"data follows the end marker at byte {offset} (joined tars, or a hole in the file?)")


def _twins(previous: str | None, name: str) -> bool:
    """Do two neighbouring images have the same key, but different extensions?"""
    if previous is None:
        return False
    (key, extension), (next_key, next_extension) = key_and_extension(previous), key_and_extension(name)
    return key == next_key and extension != next_extension


def _ambiguous(first: str | None, second: str) -> AmbiguousImage:
    extensions = sorted({key_and_extension(first or second)[1], key_and_extension(second)[1]})
    return AmbiguousImage(f"two images under one key ({', '.join(extensions)}): choose one with --image-ext")


def _image(file: RangeFile, shard: SourceObject, member: Member, after: Cursor, options: ReadOptions) -> EncodedImage:
    image = EncodedImage(
        shard=shard.uri, index=after.index - 1, image_id=key_and_extension(member.name)[0], after=after,
        member=member.name, bytes_length=member.size,
    )  # fmt: skip
    if not member.is_file:
        return replace(image, error=LinkMember("a link, device or sparse member: no image bytes of its own"), bytes_length=None)
    image = replace(image, offset=member.data, length=member.size)
    if member.size > options.max_encoded_bytes:
        return replace(image, error=ImageTooLarge(f"{member.size} bytes encoded; the limit is {options.max_encoded_bytes}"))
    file.seek(member.data)
    return replace(image, data=file.read(member.size))
