"""Against torch (bilinear interpolation, argmax, softmax), and the fast pass against the plain one, bit for bit."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.labels.upsample import upsample_labels

CLASSES = 5
FIELDS = ("mask", "confidence", "histogram", "pixels", "confidence_sums", "boxes")


def _torch(logits: npt.NDArray[np.float32], height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Logits at the new size by torch, and the softmax of them, in float64."""
    upsampled = F.interpolate(torch.from_numpy(logits)[None].double(), (height, width), mode="bilinear", align_corners=False)[0]
    return upsampled.numpy(), upsampled.softmax(0).numpy()


def _check(logits: npt.NDArray[np.float32], height: int, width: int) -> None:
    labels = upsample_labels(logits, height, width)
    label_map, confidence = labels.mask, labels.confidence
    values, probabilities = _torch(logits, height, width)
    assert label_map.shape == confidence.shape == (height, width)
    assert label_map.dtype == confidence.dtype == np.uint8
    ordered = np.sort(values, axis=0)
    clear = np.ones((height, width), bool) if len(values) == 1 else ordered[-1] - ordered[-2] > 1e-3
    assert (label_map == values.argmax(0))[clear].all()
    assert clear.mean() > 0.5 or height * width < 50
    exact = 255 * probabilities.max(0)
    assert (np.abs(confidence - exact) <= 0.5 + 0.02).all()  # rounded, not cut


@given(
    seed=st.integers(0, 1 << 30),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    height=st.integers(1, 80),
    width=st.integers(1, 80),
)
@example(seed=1, rows=8, columns=8, height=64, width=64)
@example(seed=2, rows=1, columns=1, height=7, width=5)
@example(seed=3, rows=9, columns=9, height=3, width=2)  # smaller than the logits
def test_as_torch(seed: int, rows: int, columns: int, height: int, width: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 4, (CLASSES, rows, columns)).astype(np.float32)
    _check(logits, height, width)


@pytest.mark.parametrize(("classes", "scale"), [(1, 4.0), (2, 0.01), (21, 4.0), (255, 30.0)])
def test_as_torch_at_a_photographs_size(classes: int, scale: float) -> None:
    logits = np.random.default_rng(classes).normal(0, scale, (classes, 33, 47)).astype(np.float32)
    _check(logits, 375, 500)


def test_a_sheared_array_is_read_as_it_is_indexed() -> None:
    logits = np.random.default_rng(7).normal(0, 4, (6, 5, CLASSES)).astype(np.float32).transpose(2, 1, 0)
    assert not logits.flags.c_contiguous
    _check(logits, 31, 37)


def test_the_lowest_class_wins_a_tie() -> None:
    logits = np.zeros((4, 2, 2), np.float32)
    logits[1:3] = 3
    label_map = upsample_labels(logits, 16, 16).mask
    assert (label_map == 1).all()


def test_confidence_of_equal_and_of_certain_classes() -> None:
    assert (upsample_labels(np.zeros((4, 2, 2), np.float32), 8, 8).confidence == 64).all()  # 255 / 4 = 63.75
    certain = np.zeros((4, 2, 2), np.float32)
    certain[2] = 100
    labels = upsample_labels(certain, 8, 8)
    assert (labels.mask == 2).all()
    assert (labels.confidence == 255).all()


def test_huge_logits_do_not_overflow() -> None:
    logits = np.full((3, 2, 2), -3e38, np.float32)
    logits[1] = 3e38
    labels = upsample_labels(logits, 9, 9)
    assert (labels.mask == 1).all()
    assert (labels.confidence == 255).all()


def test_the_corners_are_the_corners() -> None:
    """Half-pixel centres: what is outside the outermost centres takes their value."""
    logits = np.zeros((2, 2, 2), np.float32)
    logits[1] = [[-8, 8], [8, -8]]
    label_map = upsample_labels(logits, 16, 16).mask
    assert label_map[:4, :4].max() == label_map[-4:, -4:].max() == 0
    assert label_map[:4, -4:].min() == label_map[-4:, :4].min() == 1


def _assert_as_plain(logits: npt.NDArray[np.float32], height: int, width: int, threshold: float = 0.0) -> None:
    fast, plain = upsample_labels(logits, height, width, threshold), upsample_labels(logits, height, width, threshold, plain=True)
    for name in FIELDS:
        assert np.array_equal(getattr(fast, name), getattr(plain, name)), name


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 1 << 30),
    classes=st.sampled_from((1, 2, 3, 21, 40)),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    scale=st.sampled_from((0.0, 1e-3, 1.0, 6.0, 30.0, 300.0)),
    steps=st.sampled_from((0, 1, 4)),
    threshold=st.sampled_from((0.0, 0.5, 0.997, 1.0)),
)
def test_as_every_pixel_by_itself(
    seed: int, classes: int, rows: int, columns: int, height: int, width: int, scale: float, steps: int, threshold: float
) -> None:
    """Random logits of every size; `steps` to a unit makes them collide: ties in the corners and between them."""
    logits = np.random.default_rng(seed).normal(0, scale, (classes, rows, columns))
    logits = np.round(logits * steps) / steps if steps else logits
    _assert_as_plain(logits.astype(np.float32), height, width, threshold)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 1 << 30), lead=st.floats(8.5, 10.5), size=st.integers(20, 200))
def test_as_every_pixel_by_itself_where_confidence_saturates(seed: int, lead: float, size: int) -> None:
    """20 others, each exp(-lead): their sum is 0.00196 about where a confidence of 255 begins."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 0.1, (21, 6, 7)).astype(np.float32)
    logits[rng.integers(0, 3)] += np.float32(lead)
    _assert_as_plain(logits, size, size + 9)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1 << 30), gap=st.sampled_from((0.0, 1e-7, 1e-6, 1e-4, 1e-3, 2e-3, 3e-3)), size=st.integers(20, 120))
def test_as_every_pixel_by_itself_where_two_classes_are_one_rounding_apart(seed: int, gap: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (5, 5, 5)).astype(np.float32)
    logits[3] = logits.max(0) + np.float32(20)
    logits[1] = logits[3] - np.float32(gap)
    _assert_as_plain(logits, size, size)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_as_every_pixel_by_itself(bad: float) -> None:
    logits = np.random.default_rng(3).normal(0, 4, (4, 5, 6)).astype(np.float32)
    logits[2, 1, 1] = bad
    fast, plain = upsample_labels(logits, 40, 50), upsample_labels(logits, 40, 50, plain=True)
    assert np.array_equal(fast.mask, plain.mask)
    assert np.array_equal(fast.confidence, plain.confidence)


def test_a_saturated_photograph_is_filled_not_computed() -> None:
    """Twenty times as fast would be a timing; that cells are found full is not."""
    from pipeline.labels import kernel as fast

    logits = np.zeros((3, 4, 5), np.float32)
    logits[2] = 20
    clear, others = np.empty((4, 5), np.int32), np.empty((4, 5), np.float32)
    fast._see_nodes(logits, clear, others)
    assert (clear == 2).all()
    assert (others < fast._SATURATED).all()
    labels = upsample_labels(logits, 64, 80)
    assert labels.histogram[2, 255] == 64 * 80
    assert labels.boxes[2].tolist() == [0, 0, 80, 64]
