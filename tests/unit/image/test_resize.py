"""Sizes and pixels as torchvision makes them: the preset of a checkpoint means its code."""

import numpy as np
import pytest
import torchvision.transforms.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import _compute_resized_output_size

from pipeline.errors import ImageTooLarge
from pipeline.image.resize import resize, resized_size
from tests.support.images import scene

SIDES = st.integers(1, 20_000)
NO_LIMIT = 1 << 62


@given(width=SIDES, height=SIDES, short_side=st.integers(1, 4096))
@example(width=1, height=5000, short_side=520)
@example(width=520, height=520, short_side=520)
@example(width=3, height=2, short_side=1)
def test_resized_size_is_torchvisions(width: int, height: int, short_side: int) -> None:
    new_height, new_width = _compute_resized_output_size((height, width), [short_side])
    assert resized_size(width, height, short_side) == (new_width, new_height)


@given(width=st.integers(1, 60), height=st.integers(1, 60), short_side=st.integers(1, 70))
def test_resize_is_torchvisions_of_a_pil_image(width: int, height: int, short_side: int) -> None:
    image = scene().crop((2, 3, 2 + width, 3 + min(height, 45)))
    mine = resize(image, short_side, max_pixels=NO_LIMIT)
    theirs = np.asarray(F.resize(image, [short_side], InterpolationMode.BILINEAR, antialias=True))
    assert mine.dtype == np.uint8
    assert mine.shape == theirs.shape
    assert (mine == theirs).all()


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = scene()
    assert (resize(image, 48, max_pixels=NO_LIMIT) == np.asarray(image)).all()


def test_shrinking_is_antialiased() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8)[:, None, None], (32, 64, 3)))
    assert abs(int(resize(stripes, 8, max_pixels=NO_LIMIT).mean()) - 127) <= 2


def test_the_limit_is_inclusive_and_names_both_sizes() -> None:
    image = Image.new("RGB", (20, 10))
    assert resize(image, 40, max_pixels=80 * 40).shape == (40, 80, 3)
    with pytest.raises(ImageTooLarge, match=r"20x10 becomes 80x40 at short side 40; --max-pixels is 3199"):
        resize(image, 40, max_pixels=80 * 40 - 1)
