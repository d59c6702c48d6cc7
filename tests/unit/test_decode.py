"""Every nasty image of the corpus: mask or failure, size, orientation, error; and that upright means upright."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import PILLOW_MAX_PIXELS
from pipeline.decode import decode
from pipeline.errors import BadImage, CorruptImage, ImageTooLarge, UnsupportedFormat
from pipeline.model.preprocess import resize
from tests.support.corpus import images
from tests.support.images import SIZE, encode, jpeg, scene

CASES = images()
LIMIT = PILLOW_MAX_PIXELS
SCENE = np.asarray(scene()).astype(int)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome == "mask"])
def test_masks(name: str) -> None:
    case = CASES[name]
    photograph = decode(case.data, max_source_pixels=LIMIT)
    assert photograph.image.mode == "RGB"
    assert photograph.image.size == photograph.size == case.size
    assert photograph.orientation == case.orientation


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.outcome == "failure"])
def test_failures(name: str) -> None:
    case = CASES[name]
    with pytest.raises(BadImage) as error:  # a thin image is found too large only where it is resized
        resize(decode(case.data, max_source_pixels=LIMIT).image, 520, max_pixels=4_000_000)
    assert error.value.kind == case.error
    assert 0 < len(error.value.message) <= 200


@pytest.mark.parametrize("name", ["bomb.png", "just_too_large.png", "header_65535.png"])
def test_bombs_are_refused_before_a_pixel_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", never)
    with pytest.raises(ImageTooLarge, match="--max-source-pixels"):
        decode(CASES[name].data, max_source_pixels=LIMIT)


LOSSY = 8  # what JPEG with subsampled colours moves a pixel on average; a picture turned wrongly is 20 and more away


@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith(("orientation", "rgb", "phone", "exif", "animated", "pages"))]
)
def test_the_picture_is_upright_and_has_its_colours(name: str) -> None:
    pixels = np.asarray(decode(CASES[name].data, max_source_pixels=LIMIT).image).astype(int)
    assert np.abs(pixels - SCENE).mean() < LOSSY
    lossless = CASES[name].data[:4] in (b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*")
    assert not lossless or (pixels == SCENE).all()


def test_a_case_for_each_orientation_is_turned_differently() -> None:
    """Else the test above could pass with pictures that were never turned."""
    stored = [np.asarray(Image.open(io.BytesIO(CASES[f"orientation_{number}.jpg"].data))).astype(int) for number in range(1, 9)]
    assert [pixels.shape[:2] for pixels in stored] == [(48, 64)] * 4 + [(64, 48)] * 4
    for pixels in stored[1:4]:
        assert np.abs(pixels - SCENE).mean() > 20
    for number, pixels in enumerate(stored[4:]):
        assert all(np.abs(pixels - other).mean() > 20 for other in stored[5 + number :])


def test_sixteen_bit_gray_keeps_its_high_byte() -> None:
    gray = np.asarray(scene().convert("L"))
    for name in ("gray_16_bit.png", "gray_16_bit_tiff.tiff"):
        pixels = np.asarray(decode(CASES[name].data, max_source_pixels=LIMIT).image)
        assert (pixels == gray[..., None]).all()


def test_alpha_is_dropped_not_blended() -> None:
    pixels = np.asarray(decode(CASES["rgba.png"].data, max_source_pixels=LIMIT).image)
    assert (pixels == np.asarray(scene())).all()
    palette = np.asarray(decode(CASES["palette_transparent.png"].data, max_source_pixels=LIMIT).image)
    assert (palette == np.asarray(scene().quantize(16, dither=Image.Dither.NONE).convert("RGB"))).all()


def test_one_bit_becomes_black_and_white() -> None:
    pixels = np.asarray(decode(CASES["one_bit.png"].data, max_source_pixels=LIMIT).image)
    assert set(np.unique(pixels)) == {0, 255}


def test_the_limit_is_inclusive() -> None:
    width, height = SIZE
    data = encode(scene(), "PNG")
    assert decode(data, max_source_pixels=width * height).image.size == SIZE
    with pytest.raises(ImageTooLarge, match=f"{width}x{height}"):
        decode(data, max_source_pixels=width * height - 1)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x00\x00\x00\x20ftypheic", "HEIC"),
        (b"\x00\x00\x00\x20ftyphevc", "HEIC"),
        (b"\x00\x00\x00\x20ftypmif1", "HEIF"),
        (b"\x00\x00\x00\x20ftypavif", "AVIF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"GIF89a", "GIF"),
        (b"8BPS", "PSD"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_kinds_that_are_not_decoded_are_named(head: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"^{name} .*convert it"):
        decode(head + bytes(64), max_source_pixels=LIMIT)


def test_memory_that_runs_out_is_a_large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ImageTooLarge, match="memory"):
        decode(encode(scene(), "PNG"), max_source_pixels=LIMIT)


def test_messages_are_the_same_every_time() -> None:
    """No address of a buffer in them: the same part made twice has the same bytes."""
    for case in CASES.values():
        if case.outcome == "failure" and case.name != "thin_1x5000.png":
            said = set()
            for _ in range(2):
                with pytest.raises(BadImage) as error:
                    decode(bytes(bytearray(case.data)), max_source_pixels=LIMIT)
                said.add(error.value.message)
            assert len(said) == 1


SOUND = (jpeg(), *(encode(scene(), kind) for kind in ("PNG", "BMP", "TIFF", "GIF")), encode(scene(), "WEBP", lossless=True))


@given(
    data=st.one_of(st.binary(max_size=200), st.sampled_from(SOUND)),
    flips=st.lists(st.tuples(st.integers(0), st.integers(1, 255)), max_size=4),
    keep=st.integers(0, 30_000),
)
def test_whatever_the_bytes_are(data: bytes, flips: list[tuple[int, int]], keep: int) -> None:
    broken = bytearray(data[:keep])
    for at, bits in flips if broken else ():
        broken[at % min(len(broken), 200)] ^= bits
    try:
        image = decode(bytes(broken), max_source_pixels=1_000_000).image
    except (CorruptImage, UnsupportedFormat, ImageTooLarge):
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= 1_000_000
