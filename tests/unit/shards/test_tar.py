"""Tars: what is read of whole and broken ones, from the beginning and from any cursor."""

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ObjectChanged, StorageError
from pipeline.shards import tar as tar_module
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.range_file import RangeFile
from pipeline.shards.tar import part_starts, read_tar
from pipeline.storage.local import LocalStore
from tests.support.corpus import Entry, cut_in_body, photos, spans, tar_bytes, tar_of, tars, zeroed_region
from tests.support.images import jpeg
from tests.support.memory import MemoryStore

READ = ReadOptions()
URI = "memory/x.tar"
CASES = tars()


def _shard(data: bytes) -> SourceObject:
    return SourceObject(uri=URI, kind="tar", size=len(data), version=None)


def _read(data: bytes, start: Cursor | None = None, options: ReadOptions = READ) -> list[EncodedImage]:
    return list(read_tar(MemoryStore(data), _shard(data), start or Cursor(), options))


def _facts(images: list[EncodedImage]) -> list[tuple[object, ...]]:
    """Everything that must be the same wherever reading began; exceptions by what they say."""
    return [
        (i.index, i.image_id, i.member, i.offset, i.length, i.data, i.bytes_length, i.after, i.truncated, i.ends_part, _said(i))
        for i in images
    ]


def _said(image: EncodedImage) -> tuple[str, str] | None:
    return None if image.error is None else (image.error.kind, image.error.message)


def _kinds(images: list[EncodedImage]) -> list[str | None]:
    return [None if image.error is None else image.error.kind for image in images]


@pytest.mark.parametrize("name", CASES)
def test_the_corpus(name: str) -> None:
    case = CASES[name]
    found = _read(case.data)
    assert [image.index for image in found] == list(range(len(found)))
    broken = [image for image in found if image.truncated]
    assert len(broken) == case.broken
    if case.broken:
        assert broken == found[-1:]
        assert _kinds(broken) == ["BrokenShard"]
        assert broken[0].error is not None
        assert broken[0].error.stage == "read"
        assert broken[0].index == len(case.images)
        assert broken[0].image_id == f"{URI}#{len(case.images)}"
    rows = [image for image in found if not image.truncated]
    assert tuple(image.member for image in rows if image.member not in case.links) == case.images
    assert {image.member for image in rows if _kinds([image]) == ["LinkMember"]} == set(case.links)
    if not case.ambiguous and not case.links:
        assert _kinds(rows) == [None] * len(case.images)
    for image in rows:
        if image.error is None:
            assert image.offset is not None
            assert image.length is not None
            assert image.data == case.data[image.offset : image.offset + image.length]
            assert image.bytes_length == image.length


def test_members_hold_the_bytes_that_went_in() -> None:
    members = photos(3)
    assert [(image.member, image.data) for image in _read(tar_bytes(members))] == members


def test_an_empty_file_is_a_tar_without_images() -> None:
    """A missing end marker alone is no break, and that is all that zero bytes lack."""
    assert _read(b"") == []
    assert list(part_starts(MemoryStore(b""), _shard(b""), READ, 10, 1 << 30)) == [Cursor(0, 0, None)]


@pytest.mark.parametrize("kept", [0, 1, 100, 512, 600, 1023, 1024])
def test_a_missing_or_cut_end_marker_is_no_break(kept: int) -> None:
    packed = tar_bytes(photos(2), end_marker=False)
    assert _kinds(_read(packed + bytes(kept))) == [None, None]


def test_missing_padding_of_the_last_member_is_no_break() -> None:
    packed = tar_bytes([("0001.jpg", jpeg()), ("0002.jpg", b"x" * 700)], end_marker=False)
    assert _kinds(_read(packed[: -(1024 - 700)])) == [None, None]
    assert _kinds(_read(packed[: -(1024 - 700) - 1])) == [None, "BrokenShard"]


@pytest.mark.parametrize("behind", [b"x", tar_bytes(photos(1, first=9)), bytes(3_000_000) + b"x"])
def test_data_behind_the_end_marker_is_a_break(behind: bytes) -> None:
    found = _read(tar_bytes(photos(2)) + behind)
    assert _kinds(found) == [None, None, "BrokenShard"]
    assert "end marker" in str(found[-1].error)


def test_a_hole_in_the_file_is_a_break() -> None:
    found = _read(zeroed_region(tar_bytes(photos(4)), 1))
    assert _kinds(found) == [None, None, "BrokenShard"]  # the half-blank image is the decoder's to judge


def test_links_and_devices_are_rows_and_folders_are_not() -> None:
    data = CASES["links_and_directories.tar"].data
    found = _read(data)
    assert [(image.member, *_kinds([image])) for image in found] == [
        ("a/0001.jpg", None),
        ("a/0002.jpg", "LinkMember"),
        ("a/0003.jpg", "LinkMember"),
        ("b/0001.jpg", None),
    ]
    for link in found[1:3]:
        assert (link.data, link.offset, link.length, link.bytes_length) == (None, None, None, None)


def test_sparse_members_are_rows_of_their_own_kind() -> None:
    info = tarfile.TarInfo("0001.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"00000000000\0", b"00000001000\0"  # one map entry: 512 bytes at 0
    header[483:495] = b"00000002000\0"  # the real size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    data = bytes(header) + bytes(range(256)) * 2 + tar_bytes(photos(1, first=2))
    assert [(image.member, *_kinds([image])) for image in _read(data)] == [("0001.jpg", "LinkMember"), ("0002.jpg", None)]


def test_two_extensions_under_one_key_fail_both() -> None:
    data = CASES["two_extensions.tar"].data
    found = _read(data)
    assert _kinds(found) == ["AmbiguousImage", "AmbiguousImage", None]
    assert "--image-ext" in str(found[0].error)
    assert str(found[0].error) == str(found[1].error)
    assert found[0].data is None
    assert [image.member for image in _read(data, options=ReadOptions(image_ext="png"))] == ["0001.png"]
    assert _kinds(_read(data, options=ReadOptions(image_ext="jpg"))) == [None, None]


def test_three_extensions_under_one_key_fail_all() -> None:
    data = tar_bytes([("1.jpg", b"a"), ("1.json", b"{}"), ("1.png", b"b"), ("1.webp", b"c"), ("2.jpg", b"d")])
    assert _kinds(_read(data)) == ["AmbiguousImage"] * 3 + [None]


def test_one_key_in_two_letter_cases_is_not_two_extensions() -> None:
    assert _kinds(_read(tar_bytes([("1.jpg", b"a"), ("1.JPG", b"b")]))) == [None, None]


def test_image_ext_names_the_whole_extension() -> None:
    data = CASES["sidecars.tar"].data
    assert [image.member for image in _read(data, options=ReadOptions(image_ext="seg.png"))] == ["0001.seg.png"]


def test_too_many_bytes_are_not_read() -> None:
    data = tar_bytes([("1.jpg", b"x" * 100), ("2.jpg", b"y" * 99)])
    found = _read(data, options=ReadOptions(max_encoded_bytes=99))
    assert _kinds(found) == ["ImageTooLarge", None]
    assert (found[0].data, found[0].bytes_length) == (None, 100)


def test_images_of_kinds_that_are_not_decoded_are_rows() -> None:
    assert [image.member for image in _read(tar_bytes([("1.heic", b"x"), ("2.jxl", b"y")]))] == ["1.heic", "2.jxl"]


def test_names_that_are_not_utf_8_are_written_down_all_the_same() -> None:
    (image,) = _read(tar_bytes([("caf\udce9.jpg", b"x")]))
    assert image.member == "caf\ufffd.jpg"
    assert image.image_id == "caf\ufffd"


def test_enormous_extension_headers_are_refused_unread() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    found = _read(header + bytes(1024))
    assert _kinds(found) == ["BrokenShard"]
    assert "extension header" in str(found[0].error)


def test_storage_errors_are_raised_not_taken_for_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "RangeFile", lambda store, info: RangeFile(store, info, 4096))
    data = tar_bytes(photos(4))
    store = MemoryStore(data)
    store.broken = range(spans(data)[2].offset, len(data))
    found: list[EncodedImage] = []
    with pytest.raises(StorageError, match="reset"):
        found.extend(read_tar(store, _shard(data), Cursor(), READ))
    assert _kinds(found) == [None]  # the second is held back: its successor is not known


def test_a_file_that_got_shorter_is_a_storage_error(tmp_path: Path) -> None:
    """A break is declared only when all the bytes that the listing promised were read."""
    path = tmp_path / "x.tar"
    data = tar_bytes(photos(3))
    path.write_bytes(cut_in_body(data, 1))
    shard = SourceObject(uri=str(path), kind="tar", size=len(data), version=None)
    with pytest.raises(ObjectChanged):
        list(read_tar(LocalStore(), shard, Cursor(), READ))


# --- cursors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_reading_goes_on_at_any_cursor(name: str) -> None:
    data = CASES[name].data
    whole = _read(data)
    for number, image in enumerate(whole):
        if not image.truncated:
            assert _facts(_read(data, image.after)) == _facts(whole[number + 1 :])


_NAMES = st.builds(
    "{}{}.{}".format,
    st.sampled_from(["", "a/", "d" * 120 + "/"]),
    st.sampled_from("12"),
    st.sampled_from(["jpg", "png", "PNG", "json", "seg.png", "heic"]),
)
_ENTRIES = st.lists(
    st.one_of(
        st.builds(Entry, _NAMES, st.binary(max_size=3).map(lambda data: data * 300)),
        st.builds(Entry, _NAMES, kind=st.sampled_from(["symlink", "hardlink", "directory"]), target=st.just("1.jpg")),
    ),
    max_size=8,
)  # fmt: skip


@given(entries=_ENTRIES, dialect=st.sampled_from(["pax", "gnu"]), lost=st.integers(0, 2000), ext=st.sampled_from([None, "png"]))
def test_any_tar_from_any_cursor(entries: list[Entry], dialect: str, lost: int, ext: str | None) -> None:
    """Few names, so that keys meet at every boundary; some tars are cut anywhere."""
    packed = tar_of(entries, dialect=dialect, end_marker=False)  # type: ignore[arg-type]
    data = packed[: max(0, len(packed) - lost)]
    options = ReadOptions(image_ext=ext, max_encoded_bytes=800)
    whole = _read(data, options=options)
    for number, image in enumerate(whole):
        if not image.truncated:
            assert _facts(_read(data, image.after, options)) == _facts(whole[number + 1 :])


@given(entries=_ENTRIES)
def test_no_image_member_of_a_whole_tar_is_lost(entries: list[Entry]) -> None:
    """Against Python's own reading of the same bytes."""
    data = tar_of(entries)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        names = [info.name for info in archive.getmembers() if not info.isdir()]
    expected = [name for name in names if name.rpartition("/")[2].partition(".")[2].lower() in ("jpg", "png", "heic")]
    assert [image.member for image in _read(data)] == expected


@given(data=st.binary(max_size=2048), flip=st.integers(0, 20_000))
def test_any_bytes_end_in_rows_or_a_break(data: bytes, flip: int) -> None:
    """Noise, and a sound tar with one byte flipped: never an exception, and indices without a gap."""
    sound = bytearray(tar_bytes([("1.jpg", b"x" * 600), ("n" * 150 + ".jpg", b"y" * 100), ("3.png", b"z")]))
    sound[flip % len(sound)] ^= 0xFF
    for shard in (data, bytes(sound)):
        found = _read(shard)
        assert [image.index for image in found] == list(range(len(found)))
        assert not any(image.truncated for image in found[:-1])


# --- where parts begin ---------------------------------------------------------------------------------------


def _starts_by_reading(data: bytes, options: ReadOptions, part_images: int, part_bytes: int) -> list[Cursor]:
    """The rule of the contract: a part is full at `part_images`, or where `part_bytes` is reached."""
    starts, count, size, after = [Cursor(0, 0, None)], 0, 0, Cursor(0, 0, None)
    for image in _read(data, options=options):
        if image.truncated:
            break
        if count >= part_images or size >= part_bytes:
            starts.append(after)
            count = size = 0
        count, after = count + 1, image.after
        length = image.bytes_length or 0
        size += length if length <= options.max_encoded_bytes else 0
    return starts


@given(
    entries=_ENTRIES,
    part_images=st.integers(1, 4),
    part_bytes=st.integers(1, 2000),
    limit=st.sampled_from([500, 10_000]),
    lost=st.sampled_from([0, 700]),
)
def test_part_starts_agree_with_reading(entries: list[Entry], part_images: int, part_bytes: int, limit: int, lost: int) -> None:
    packed = tar_of(entries, end_marker=False)
    data = packed[: max(0, len(packed) - lost)]
    options = ReadOptions(max_encoded_bytes=limit)
    mine = list(part_starts(MemoryStore(data), _shard(data), options, part_images, part_bytes))
    assert mine == _starts_by_reading(data, options, part_images, part_bytes)
    for number, start in enumerate(mine):  # a walk that begins where a part does finds those behind it
        assert list(part_starts(MemoryStore(data), _shard(data), options, part_images, part_bytes, start)) == mine[number:]


@pytest.mark.parametrize("name", CASES)
def test_part_starts_of_the_corpus(name: str) -> None:
    data = CASES[name].data
    mine = list(part_starts(MemoryStore(data), _shard(data), READ, 1, 1 << 30))
    assert mine == _starts_by_reading(data, READ, 1, 1 << 30)


def test_a_part_ends_where_its_bytes_reach_the_limit() -> None:
    data = tar_bytes([(f"{number}.jpg", b"x" * 400) for number in range(5)])
    starts = list(part_starts(MemoryStore(data), _shard(data), READ, 100, 800))
    assert [start.index for start in starts] == [0, 2, 4]
    assert [start.previous for start in starts] == [None, "1.jpg", "3.jpg"]


def test_hostile_names_are_text_in_a_column() -> None:
    data = CASES["hostile_names.tar"].data
    assert [image.member for image in _read(data)] == ["a\nb.jpg", "\u202egpj.jpg", "\x1b[31m" + "n" * 4096 + ".jpg"]
    assert [image.image_id for image in _read(data)] == ["a\nb", "\u202egpj", "\x1b[31m" + "n" * 4096]


def test_memory_does_not_grow_with_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "RangeFile", lambda store, info: RangeFile(store, info, 1 << 16))
    header = tar_bytes([("0001.json", b"")], end_marker=False)
    data = header * 50_000 + tar_bytes(photos(2))
    store, shard = MemoryStore(data), _shard(data)
    tracemalloc.start()
    try:
        found = list(read_tar(store, shard, Cursor(), READ))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [image.member for image in found] == ["0001.jpg", "0002.jpg"]
    assert peak < 2 << 20  # two chunks, and copies


@pytest.mark.parametrize("index", range(1, 5))
def test_a_cursor_without_an_offset_is_found_by_headers(index: int) -> None:
    data, options = tar_bytes(photos(4)), ReadOptions()
    whole = list(read_tar(MemoryStore(data), _shard(data), Cursor(), options))
    assert list(read_tar(MemoryStore(data), _shard(data), Cursor(index), options)) == whole[index:]


def test_a_cursor_behind_the_end_is_a_break() -> None:
    data = tar_bytes(photos(4))
    (image,) = read_tar(MemoryStore(data), _shard(data), Cursor(5), ReadOptions())
    assert (image.truncated, image.index, str(image.error)) == (True, 5, "the tar ends before image 5")


def test_a_walk_from_an_index_alone_counts_the_headers_before_it() -> None:
    data = tar_bytes([(f"{number}.jpg", b"x" * 400) for number in range(9)])
    whole = list(part_starts(MemoryStore(data), _shard(data), READ, 2, 1 << 30))
    assert list(part_starts(MemoryStore(data), _shard(data), READ, 2, 1 << 30, Cursor(4))) == whole[2:]
    assert list(part_starts(MemoryStore(data), _shard(data), READ, 2, 1 << 30, Cursor(10))) == []
