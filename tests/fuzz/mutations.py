"""Valid and nasty files, mutated: bytes that our readers and the decoder must make rows of, whatever they are."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st

from tests.support.corpus import images, jpeg, parquet_bytes, parquets, photos, tar_bytes, tars
from tests.support.decoders import decoders

_LARGEST = 200_000  # bytes of a file that is worth mutating
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
_OCTAL = (b"00000000000\0", b"77777777777\0", b"\x80\0\0\0\0\0\0\0\0\0\x10\0", b"-0000000001\0", b"           \0")


@dataclass(frozen=True, slots=True)
class Input:
    """kind: image, tar or parquet. name: of the file that it was."""

    kind: str
    name: str
    data: bytes


@cache
def originals() -> dict[str, tuple[Input, ...]]:
    """By kind, none of them huge."""
    tar_files = {case.name: case.data for case in tars().values()} | {"photos.tar": tar_bytes(photos(6))}
    parquet_files = {case.name: case.data for case in parquets().values()} | {
        f"{layout}.parquet": parquet_bytes([data for _, data in photos(6)], layout=layout)
        for layout in ("binary", "large_binary", "struct")
    }
    found = {
        "image": {case.name: case.data for case in images().values()} | decoders() | {"scene.jpg": jpeg()},
        "tar": tar_files,
        "parquet": parquet_files,
    }
    return {
        kind: tuple(Input(kind, name, data) for name, data in files.items() if 0 < len(data) <= _LARGEST)
        for kind, files in found.items()
    }


def _flip(data: bytearray, at: int, draw: random.Random) -> None:
    data[at] ^= 1 << draw.randrange(8)


def _number(data: bytearray, at: int, draw: random.Random) -> None:
    size = draw.choice((1, 2, 4, 8))
    value = draw.choice(_NUMBERS) & ((1 << (8 * size)) - 1)
    data[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))


def _octal(data: bytearray, at: int, draw: random.Random) -> None:
    at = at // 512 * 512 + 124  # the size of a tar header
    data[at : at + 12] = draw.choice(_OCTAL)


def _noise(data: bytearray, at: int, draw: random.Random) -> None:
    length = draw.randint(1, 64)
    data[at : at + length] = draw.randbytes(length)


def _insert(data: bytearray, at: int, draw: random.Random) -> None:
    data[at:at] = draw.randbytes(draw.randint(1, 64))


def _delete(data: bytearray, at: int, draw: random.Random) -> None:
    del data[at : at + draw.choice((1, 2, 7, 100, 512, 4096))]


def _repeat(data: bytearray, at: int, draw: random.Random) -> None:
    data[at:at] = data[at : at + draw.choice((4, 100, 512, 2048))] * draw.randint(1, 4)


def _cut(data: bytearray, at: int, _draw: random.Random) -> None:
    del data[at:]


def _blank(data: bytearray, at: int, draw: random.Random) -> None:
    length = min(draw.choice((8, 512, 3000)), len(data) - at)
    data[at : at + length] = bytes(length)


def _splice(data: bytearray, at: int, draw: random.Random) -> None:
    other = draw.choice([each for files in originals().values() for each in files]).data
    start = draw.randrange(len(other))
    data[at : at + draw.randint(0, 512)] = other[start : start + draw.randint(1, 2048)]


_MUTATIONS: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _flip, _flip, _number, _number, _octal, _noise, _insert, _delete, _repeat, _cut, _blank, _splice,
)  # fmt: skip


def mutate(original: bytes, draw: random.Random, *, at_end: bool = False) -> bytes:
    """One to six mutations, half of them near the beginning; `at_end`: or as often near the end."""
    data = bytearray(original)
    for _ in range(draw.randint(1, 6)):
        if not data:
            break
        near = draw.choice((64, 600, len(data), len(data)))
        at = draw.randrange(min(near, len(data)))
        if at_end and draw.random() < 0.5:
            at = len(data) - 1 - at
        draw.choice(_MUTATIONS)(data, at, draw)
    return bytes(data)


def mutated(seed: int) -> Input:
    """The input of this seed: a file, mutated."""
    draw = random.Random(seed)
    kind = draw.choices(("image", "tar", "parquet"), (8, 1, 1))[0]
    original = draw.choice(originals()[kind])
    return Input(kind, original.name, mutate(original.data, draw, at_end=kind == "parquet"))  # its footer


def inputs() -> st.SearchStrategy[Input]:
    """For hypothesis: whole numbers shrink well enough, as each input says what file it was."""
    return st.integers(0, (1 << 48) - 1).map(mutated)
