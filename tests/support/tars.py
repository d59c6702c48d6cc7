"""Tars as bytes, whole and broken, equal in every run."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from tests.support.images import SEED, encode, jpeg, scene

if TYPE_CHECKING:
    from collections.abc import Iterable

Dialect = Literal["pax", "gnu"]

BLOCK: Final = 512
_TYPES: Final = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a tar, of any kind."""

    name: str
    data: bytes = b""
    kind: Literal["file", "directory", "symlink", "hardlink"] = "file"
    target: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a member in its tar."""

    name: str
    header: int  # offset of its own header; a long name stands before this header
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TarCase:
    """One tar. images: its image members that can be read whole, in order; all of them are sound."""

    name: str
    data: bytes
    images: tuple[str, ...]
    broken: bool = False  # one failure row of stage read follows at index len(images)
    ambiguous: bool = False  # two image extensions under one key
    links: tuple[str, ...] = ()  # members with image names and no bytes; failure rows `LinkMember`, not in `images`


def tar_bytes(members: Iterable[tuple[str, bytes]], *, end_marker: bool = True) -> bytes:
    """Pack files into a tar: ustar, with pax headers if a name needs them."""
    return tar_of((Entry(name, data) for name, data in members), end_marker=end_marker)


def tar_of(entries: Iterable[Entry], *, dialect: Dialect = "pax", end_marker: bool = True) -> bytes:
    """Pack entries of any kind. Names are stored as they are, even absolute names."""
    packed = b"".join(_pack(entry, dialect) for entry in entries)
    if not end_marker:
        return packed
    return packed + bytes(-(len(packed) + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK)


def spans(tar: bytes) -> list[Span]:
    """The places of the members, in order."""
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
        return [Span(info.name, info.offset_data - BLOCK, info.offset_data, info.size) for info in archive.getmembers()]


def cut_in_body(tar: bytes, index: int) -> bytes:
    """Cut a tar in the middle of the bytes of a member."""
    span = spans(tar)[index]
    return tar[: span.offset + span.length // 2]


def cut_in_header(tar: bytes, index: int) -> bytes:
    """Cut a tar inside the header of a member."""
    return tar[: spans(tar)[index].header + 200]


def zeroed_header(tar: bytes, index: int) -> bytes:
    """Fill the header of a member with zeros: it then looks like the end of the tar."""
    start = spans(tar)[index].header
    return _zeroed(tar, start, start + BLOCK)


def zeroed_region(tar: bytes, index: int) -> bytes:
    """Fill a tar with zeros from the middle of a member to the middle of the next, like a hole in a file."""
    first, second = spans(tar)[index : index + 2]
    return _zeroed(tar, first.offset + first.length // 2, second.offset + second.length // 2)


def tars() -> dict[str, TarCase]:
    """Every case by its name. Tests make the cases of `zeroed_region` and of refused suffixes themselves."""
    return {case.name: case for case in (*_whole(), *_named(), *_kinds(), *_cut())}


def photos(count: int, *, first: int = 1) -> list[tuple[str, bytes]]:
    """Make 0001.jpg, 0002.jpg and so on, each with another picture."""
    return [(f"{number:04}.jpg", jpeg(SEED + number)) for number in range(first, first + count)]


def _pack(entry: Entry, dialect: Dialect) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.size = len(entry.data)
    info.type = _TYPES[entry.kind]
    info.linkname = entry.target
    body = entry.data + bytes(-len(entry.data) % BLOCK)
    form: Literal[1, 2] = 2 if dialect == "pax" else 1  # tarfile.PAX_FORMAT, tarfile.GNU_FORMAT
    return info.tobuf(form, "utf-8", "surrogateescape") + body


def _zeroed(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + bytes(stop - start) + data[stop:]


def _case(name: str, members: list[tuple[str, bytes]], images: Iterable[str] | None = None) -> TarCase:
    names = (member for member, _ in members) if images is None else images
    return TarCase(f"{name}.tar", tar_bytes(members), tuple(names))


def _whole() -> list[TarCase]:
    four = photos(4)
    names = tuple(name for name, _ in four)
    return [
        _case("plain", four),
        TarCase("no_end_marker.tar", tar_bytes(four, end_marker=False), names),
        _case("no_images", [("0001.json", b"{}"), ("README.txt", b"none"), ("0001.cls", b"7")], ()),
        TarCase("only_end_marker.tar", tar_bytes([]), ()),
        TarCase("zero_bytes.tar", b"", ()),
    ]


def _named() -> list[TarCase]:
    (_, one), (_, two), (_, three) = photos(3)
    seg = encode(scene().convert("L").quantize(4), "PNG")
    long_name = "/".join(["d" * 48] * 5) + "/" + "n" * (300 - 5 * 49 - 4) + ".jpg"
    mixed = [Entry("0001.jpg", one), Entry(long_name, two), Entry("0003.jpg", three)]
    mixed_names = tuple(entry.name for entry in mixed)
    png = encode(scene(), "PNG")
    with_sidecars = [("0001.jpg", one), ("0001.seg.png", seg), ("0001.json", b"{}"), ("0002.jpg", two)]
    return [
        _case("parent_names", [("../x.jpg", one), ("a/../../y.jpg", two)]),
        _case("absolute_names", [("/x.jpg", one), ("/a/y.jpg", two)]),
        _case("hostile_names", [("a\nb.jpg", one), ("\u202egpj.jpg", two), ("\x1b[31m" + "n" * 4096 + ".jpg", three)]),
        _case("unicode_names", [("фото-é-写真.jpg", one), ("a b#c?d%20.jpg", two)]),
        TarCase("long_names_pax.tar", tar_of(mixed), mixed_names),
        TarCase("long_names_gnu.tar", tar_of(mixed, dialect="gnu"), mixed_names),
        _case("one_key_twice", [("0001.jpg", one), ("0001.jpg", two), ("0002.jpg", three)]),
        _case("one_base_name_in_two_folders", [("a/0001.jpg", one), ("b/0001.jpg", two)]),
        _case("sidecars", with_sidecars, ["0001.jpg", "0002.jpg"]),
        # On a Mac, tar writes each name once more with a prefix: these members are no images.
        _case("mac", [("./._0001.jpg", b"\x00\x05\x16\x07"), ("./0001.jpg", one)], ["./0001.jpg"]),
        TarCase(
            "two_extensions.tar",
            tar_bytes([("0001.jpg", one), ("0001.png", png), ("0002.jpg", two)]),
            ("0001.jpg", "0001.png", "0002.jpg"),
            ambiguous=True,
        ),
    ]


def _kinds() -> list[TarCase]:
    (_, one), (_, two) = photos(2)
    linked = [
        Entry("a/", kind="directory"),
        Entry("a/0001.jpg", one),
        Entry("a/0002.jpg", kind="hardlink", target="a/0001.jpg"),
        Entry("a/0003.jpg", kind="symlink", target="0001.jpg"),
        Entry("folder.jpg", kind="directory"),
        Entry("b/0001.jpg", two),
    ]
    links = ("a/0002.jpg", "a/0003.jpg")
    return [TarCase("links_and_directories.tar", tar_of(linked), ("a/0001.jpg", "b/0001.jpg"), links=links)]


def _cut() -> list[TarCase]:
    whole = tar_bytes(photos(4))
    two = tuple(name for name, _ in photos(2))
    return [
        TarCase("cut_in_body.tar", cut_in_body(whole, 2), two, broken=True),
        TarCase("cut_in_header.tar", cut_in_header(whole, 2), two, broken=True),
        TarCase("zeroed_header.tar", zeroed_header(whole, 2), two, broken=True),
        TarCase("gzip_named_tar.tar", gzip.compress(whole, mtime=0), (), broken=True),
    ]
