"""To the bit as Pillow resizes what it has turned, whatever the sizes, the orientation, and which axis comes first."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import PILLOW_MAX_PIXELS
from pipeline.image.decode import decode
from pipeline.image.resample import resample
from pipeline.image.resize import resize
from tests.support.images import encode, scene

SIDES = st.integers(1, 90)
NOISE = np.random.default_rng(5).integers(0, 256, (90, 90, 4), np.uint8)
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@given(width=SIDES, height=SIDES, new_width=SIDES, new_height=SIDES, turn=st.integers(1, 8))
@example(width=40, height=90, new_width=20, new_height=45, turn=1)  # Pillow 13 takes the vertical axis first: 45 > 2 * 20
@example(width=45, height=90, new_width=25, new_height=50, turn=1)  # and here it does not: 40 = 2 * 20
@example(width=90, height=40, new_width=20, new_height=45, turn=6)
@example(width=30, height=30, new_width=30, new_height=30, turn=1)
def test_pillows_bits(width: int, height: int, new_width: int, new_height: int, turn: int) -> None:
    stored = np.ascontiguousarray(NOISE[:height, :width])
    image = Image.fromarray(np.ascontiguousarray(stored[..., :3]))
    upright = image.transpose(TURN[turn]) if turn in TURN else image
    theirs = np.asarray(upright.resize((new_width, new_height), Image.Resampling.BILINEAR))
    mine = resample(stored.view(np.uint32)[..., 0], new_width, new_height, turn=turn)
    assert mine.dtype == np.uint8
    assert mine.flags.c_contiguous
    assert (mine == theirs).all()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(2000, 1500), (500, 375), (700, 2100), (2100, 700)])
def test_a_photograph_as_if_it_had_been_turned_first(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = decode(
        encode(scene().resize(size), "JPEG", quality=90, exif=exif.tobytes()), max_source_pixels=PILLOW_MAX_PIXELS
    )
    mine = resize(photograph.stored, 260, max_pixels=1 << 30, turn=photograph.turn)
    upright = photograph.image
    assert upright.size == photograph.size
    theirs = np.asarray(upright.resize(mine.shape[1::-1], Image.Resampling.BILINEAR))
    assert (mine == theirs).all()


def test_an_image_in_several_blocks_of_memory_is_copied() -> None:
    image = Image.frombytes("RGB", (90, 90), NOISE[..., :3].tobytes())
    Image.core.set_block_size(4096)  # type: ignore[attr-defined]
    try:
        blocks = image.copy()
    finally:
        Image.core.set_block_size(128 << 20)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="contiguous"):
        blocks.__arrow_c_array__()
    assert (resize(blocks, 31, max_pixels=1 << 20) == resize(image, 31, max_pixels=1 << 20)).all()


def test_a_view_of_foreign_memory() -> None:
    """As `Image.open` of an uncompressed file or `Image.fromarray` may give it."""
    array = np.ascontiguousarray(NOISE[..., :3])
    with Image.open(io.BytesIO(encode(Image.fromarray(array), "BMP"))) as image:
        theirs = np.asarray(image.resize((31, 31), Image.Resampling.BILINEAR))
        assert (resize(image, 31, max_pixels=1 << 20) == theirs).all()
    assert (resize(Image.fromarray(array), 31, max_pixels=1 << 20) == theirs).all()
