"""Masks as PNG and back, the palette of PASCAL VOC, overlays."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.labels.png import decode_png, encode_gray, encode_mask, overlay, voc_palette


@pytest.mark.parametrize(
    ("class_id", "colour"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),
        (2, (0, 128, 0)),
        (3, (128, 128, 0)),
        (4, (0, 0, 128)),
        (7, (128, 128, 128)),
        (8, (64, 0, 0)),
        (15, (192, 128, 128)),
        (20, (0, 64, 128)),
        (255, (224, 224, 192)),
    ],
)
def test_vocs_colours(class_id: int, colour: tuple[int, int, int]) -> None:
    assert tuple(voc_palette()[3 * class_id : 3 * class_id + 3]) == colour


def test_no_two_classes_share_a_colour() -> None:
    assert len(voc_palette()) == 768
    assert len({voc_palette()[3 * n : 3 * n + 3] for n in range(256)}) == 256


@given(seed=st.integers(0, 1 << 30), height=st.integers(1, 40), width=st.integers(1, 40))
def test_round_trip(seed: int, height: int, width: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    for encode in (encode_mask, encode_gray):
        data = encode(values)
        back = decode_png(data)
        assert back.dtype == np.uint8
        assert (back == values).all()
        assert encode(values) == data


def test_what_other_readers_see() -> None:
    mask = np.array([[0, 1], [15, 255]], np.uint8)
    with Image.open(io.BytesIO(encode_mask(mask))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (2, 2))
        colours = np.asarray(image.convert("RGB"))
        assert not image.info
    assert colours.tolist() == [[[0, 0, 0], [128, 0, 0]], [[192, 128, 128], [224, 224, 192]]]
    with Image.open(io.BytesIO(encode_gray(mask))) as image:
        assert image.mode == "L"


@pytest.mark.parametrize("values", [[0, 1], [3], [7, 255]])
def test_masks_of_few_classes_keep_eight_bits(values: list[int]) -> None:
    """Pillow packs indices into fewer bits where the palette is short; readers expect eight."""
    data = encode_mask(np.array([values], np.uint8))
    assert data[24] == 8  # bit depth of IHDR
    assert data[25] == 3  # indexed


def test_only_png_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "BMP")
    with pytest.raises(OSError, match="cannot identify"):
        decode_png(buffer.getvalue())


def test_overlay_leaves_background_and_ignored_pixels_clear() -> None:
    photograph = Image.new("RGB", (4, 1), (100, 100, 100))
    mask = np.array([[0, 255, 1, 2]], np.uint8)
    pixels = np.asarray(overlay(photograph, mask, opacity=0.5)).astype(int)
    assert pixels[0, :2].tolist() == [[100, 100, 100]] * 2
    assert np.abs(pixels[0, 2] - [114, 50, 50]).max() <= 1
    assert np.abs(pixels[0, 3] - [50, 114, 50]).max() <= 1
