"""Extension headers of tars that are hostile: bounded in memory, time and number, and the same from wherever reading begins."""

import io
import tarfile
import time
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import tar as tar_module
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.range_file import RangeFile
from pipeline.shards.tar import part_starts, read_tar
from tests.support.corpus import photos, tar_bytes
from tests.support.memory import MemoryStore

READ = ReadOptions()
BLOCK = tarfile.BLOCKSIZE
MANY = 20_000  # blocks: 10 MB


def _shard(data: bytes) -> SourceObject:
    return SourceObject(uri="memory/x.tar", kind="tar", size=len(data), version=None)


def _read(data: bytes, start: Cursor | None = None) -> list[EncodedImage]:
    return list(read_tar(MemoryStore(data), _shard(data), start or Cursor(), READ))


def _found(data: bytes, start: Cursor | None = None) -> list[tuple[str | None, str | None]]:
    """Member and error of each row. The walk from header to header must see no more and no less."""
    rows = _read(data, start)
    if start is None:
        walked = [at.index for at in part_starts(MemoryStore(data), _shard(data), READ, 1, 1 << 30)]
        assert walked == (list(range(sum(not row.truncated for row in rows))) or [0])
    return [(row.member, None if row.error is None else row.error.kind) for row in rows]


def _padded(body: bytes) -> bytes:
    return body + bytes(-len(body) % BLOCK)


def _header(kind: bytes, size: int, name: str = "x", **fields: bytes) -> bytes:
    """One header block. fields: bytes that go to an offset, as `_386=b"..."`."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, value in fields.items():
        block[int(at[1:]) : int(at[1:]) + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def _extension(kind: bytes, body: bytes) -> bytes:
    return _header(kind, len(body)) + _padded(body)


def _records(*pairs: tuple[str, str]) -> bytes:
    """Records of a pax header."""
    found = b""
    for keyword, value in pairs:
        rest = f" {keyword}={value}\n".encode("utf-8", "surrogateescape")
        length = next(length for length in range(len(rest), len(rest) + 9) if len(str(length)) + len(rest) == length)
        found += str(length).encode() + rest
    return found


def _image(number: int) -> bytes:
    return tar_bytes(photos(1, first=number), end_marker=False)


def _sparse(blocks: Sequence[bytes], *, stored: int = 0, cut: int = 0) -> bytes:
    """An old GNU sparse member whose map goes on in these blocks."""
    header = _header(
        tarfile.GNUTYPE_SPARSE, stored, "0001.jpg", _386=b"00000000000\0" * 8, _482=b"\1", _483=b"00000002000\0"
    )  # fmt: skip
    chain = b"".join(blocks)
    return header + chain[: len(chain) - cut] + bytes(stored)


FULL = (b"00000000001\0" * 42)[:504]  # 21 entries of a map


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "RangeFile", lambda store, info: RangeFile(store, info, 1 << 16))


def _peak(data: bytes) -> tuple[list[tuple[str | None, str | None]], int]:
    store, shard = MemoryStore(data), _shard(data)
    tracemalloc.start()
    try:
        rows = list(read_tar(store, shard, Cursor(), READ))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return [(row.member, None if row.error is None else row.error.kind) for row in rows], peak


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 2 * BLOCK])
def test_a_sparse_map_that_is_cut_is_a_break(cut: int) -> None:
    """It raised `IndexError`, a fault of ours that ended the whole run, and each one after it."""
    goes_on = FULL + b"\1" + bytes(7)
    assert _found(_image(1) + _sparse([goes_on] * 4, cut=cut)) == [("0001.jpg", None), (None, "BrokenShard")]


@pytest.mark.usefixtures("small_chunks")
def test_a_long_sparse_map_is_passed_over() -> None:
    blocks = [FULL + b"\1" + bytes(7)] * MANY + [FULL + bytes(8)]
    found, peak = _peak(_sparse(blocks, stored=BLOCK) + _image(2))
    assert found == [("0001.jpg", "LinkMember"), ("0002.jpg", None)]
    assert peak < 2 << 20


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("numbers", [2 * 10**6, 10**30, None])
def test_a_sparse_map_in_the_data_of_a_member_is_passed_over(numbers: int | None) -> None:
    """`GNU.sparse` 1.0. However many numbers it claims, or if it is none: the header says where the next one lies."""
    told = _records(
        ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "0001.jpg"), ("GNU.sparse.realsize", "999")
    )  # fmt: skip
    body = b"none" if numbers is None else f"{numbers}\n".encode() + b"0\n" * 4 * 10**6
    data = _extension(tarfile.XHDTYPE, told) + _header(tarfile.REGTYPE, len(body)) + _padded(body) + _image(2)
    found, peak = _peak(data)
    assert found == [("0001.jpg", "LinkMember"), ("0002.jpg", None)]
    assert peak < 2 << 20


def test_real_sparse_members_are_passed_as_before() -> None:
    """The three kinds of `GNU.sparse` in pax headers."""
    size, real = ("GNU.sparse.size", "1024"), ("GNU.sparse.realsize", "1024")
    zero = _records(size, ("GNU.sparse.numblocks", "1"), ("GNU.sparse.offset", "0"), ("GNU.sparse.numbytes", "512"))
    one = _records(size, ("GNU.sparse.numblocks", "1"), ("GNU.sparse.name", "0002.jpg"), ("GNU.sparse.map", "0,512"))
    ten = _records(("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "0003.jpg"), real)
    data = (
        _extension(tarfile.XHDTYPE, zero) + _header(tarfile.REGTYPE, BLOCK, "0001.jpg") + bytes(BLOCK)
        + _extension(tarfile.XHDTYPE, one) + _header(tarfile.REGTYPE, BLOCK) + bytes(BLOCK)
        + _extension(tarfile.XHDTYPE, ten) + _header(tarfile.REGTYPE, 2 * BLOCK) + _padded(b"1\n0\n512\n") + bytes(BLOCK)
        + _image(4)
    )  # fmt: skip
    assert _found(data) == [(f"000{number}.jpg", "LinkMember") for number in (1, 2, 3)] + [("0004.jpg", None)]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [info.issparse() for info in archive] == [True] * 3 + [False]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_negative_size_does_not_read_to_the_end(kind: bytes) -> None:
    """512 bytes of a header took the whole tar into memory, twice."""
    found, peak = _peak(_header(kind, -1024) + bytes(BLOCK * MANY))
    assert found == [(None, "BrokenShard")]
    assert peak < 2 << 20


@pytest.mark.parametrize("body", [b"7" * 20_000, b"x=" + b"7" * 20_000, _records(("comment", "7" * 20_000))])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE])
def test_a_pax_header_of_digits_is_refused(body: bytes, kind: bytes) -> None:
    """Python looks for `\\d+ hdrcharset=`: quadratic, half an hour for 1 MiB."""
    data = _image(1) + _extension(kind, body) + _image(2)
    assert _found(data) == [("0001.jpg", None), (None, "BrokenShard")]
    assert "digits" in str(_read(data)[-1].error)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_pax_records_that_lie_inside_each_other_are_refused(kind: bytes) -> None:
    """`2 2 2 ... =`: each of these records has all that follows as its keyword, 5 GB of 100 kB."""
    found, peak = _peak(_image(1) + _extension(kind, b"2 " * 5_000 + b"=") + _image(2))
    assert found == [("0001.jpg", None), (None, "BrokenShard")]
    assert peak < 16 << 20


def test_the_worst_that_is_read_is_linear() -> None:
    """0.6 s for 1 MiB; a single run of as many digits as here would take twenty minutes."""
    body = (b"7" * 512 + b" ") * 400
    began = time.process_time()
    assert _found(_extension(tarfile.XHDTYPE, body) + _image(1)) == [("0001.jpg", None)]
    assert time.process_time() - began < 20


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_chain_of_extension_headers_ends(kind: bytes) -> None:
    """It ended where Python's stack did: elsewhere in a worker than in the driver."""
    link = _extension(kind, _records(("path", "0001.jpg")) if kind == tarfile.XHDTYPE else b"")
    ((_, error),) = _found(link * 16 + _image(2))
    assert error is None
    assert _found(_image(1) + link * 17 + _image(2)) == [("0001.jpg", None), (None, "BrokenShard")]


def test_extension_headers_are_bounded_together() -> None:
    """Each of a chain is held, with its records as text, until the last is read."""
    one = _extension(tarfile.XHDTYPE, _records(("comment", "x" * 300_000)))
    assert _found(one * 3 + _image(1) + one * 3 + _image(2)) == [("0001.jpg", None), ("0002.jpg", None)]
    assert _found(one * 3 + _image(1) + one * 4 + _image(2)) == [("0001.jpg", None), (None, "BrokenShard")]


def test_names_and_records_of_every_size_are_read() -> None:
    for length in (100, 400, 600, 4_000):
        name = ("d" * 99 + "/") * (length // 100) + "0001.jpg"
        for dialect in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            info = tarfile.TarInfo(name)
            info.pax_headers = {"comment": "7" * 300, "SCHILY.xattr.user.x": "= \n" * length}
            assert _found(info.tobuf(dialect) + _image(2)) == [(name, None), ("0002.jpg", None)]


@pytest.mark.parametrize(
    "record", [("path", "0009.jpg"), ("size", "0"), ("GNU.sparse.name", "0009.jpg"), ("GNU.sparse.size", "1")]
)
def test_a_global_header_that_renames_or_resizes_all_members_is_a_break(record: tuple[str, str]) -> None:
    """It holds until the end of the tar, and a reader that begins behind it does not know it."""
    data = _image(1) + _extension(tarfile.XGLTYPE, _records(("comment", "x"), record)) + _image(2) + _image(3)
    assert _found(data) == [("0001.jpg", None), (None, "BrokenShard")]
    (first, *_) = _read(data)
    assert _found(data, first.after) == [(None, "BrokenShard")]


@pytest.mark.usefixtures("small_chunks")
def test_other_global_headers_are_passed() -> None:
    """Of `git archive`, for one. None is kept: they would grow, and be copied for each member behind them."""
    said = _records(("comment", "0" * 40), ("mtime", "1700000000"), ("hdrcharset", "BINARY"))
    assert _found(_extension(tarfile.XGLTYPE, said) + _image(1) + _image(2)) == [("0001.jpg", None), ("0002.jpg", None)]
    many = [
        _extension(tarfile.XGLTYPE, b"".join(_records((f"{first + number}", "")) for number in range(2_000)))
        for first in range(0, 40_000, 2_000)
    ]
    found, peak = _peak(b"".join(one + _image(number) for number, one in enumerate(many)))
    assert [error for _, error in found] == [None] * 20
    assert peak < 2 << 20


_PIECES = st.one_of(
    st.builds(
        _header,
        st.sampled_from([bytes([kind]) for kind in b"0125VLKxgXS"]),
        st.sampled_from([-(1 << 40), -1024, -1, 0, 1, 512, 700, 1 << 40]),
        st.sampled_from(["1.jpg", "2.jpg", "d/", "x" * 90]),
        _386=st.binary(max_size=3),
        _482=st.sampled_from([b"", b"\1"]),
    ),
    st.builds(
        _extension,
        st.sampled_from([b"x", b"g", b"X"]),
        st.lists(
            st.tuples(
                st.sampled_from([
                    "path", "size", "hdrcharset", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize",
                    "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name",
                ]),
                st.sampled_from(["", "1", "0", "-1", "9" * 30, "0,1", "3.jpg", "\udcff"]),
            )
        ).map(lambda pairs: _records(*pairs)),
    ),
    st.sampled_from([bytes(BLOCK), FULL + b"\1" + bytes(7), _image(1), _image(2), b"x"]),
)  # fmt: skip


@given(st.lists(_PIECES, max_size=6).map(b"".join))
def test_any_headers_with_sound_checksums_end_in_rows_or_a_break(data: bytes) -> None:
    whole = _read(data)
    assert [row.index for row in whole] == list(range(len(whole)))
    assert not any(row.truncated for row in whole[:-1])
    list(part_starts(MemoryStore(data), _shard(data), READ, 1, 1 << 30))
    for number, row in enumerate(whole):
        if not row.truncated:
            said = [(image.index, image.member, image.data, str(image.error), image.after) for image in _read(data, row.after)]
            assert said == [
                (image.index, image.member, image.data, str(image.error), image.after) for image in whole[number + 1 :]
            ]
