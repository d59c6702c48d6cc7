"""Against torch: bilinear interpolation of the logits, then argmax and softmax."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.labels.upsample import upsample_labels

CLASSES = 5


def _torch(logits: npt.NDArray[np.float32], height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Logits at the new size by torch, and the softmax of them, in float64."""
    upsampled = F.interpolate(torch.from_numpy(logits)[None].double(), (height, width), mode="bilinear", align_corners=False)[0]
    return upsampled.numpy(), upsampled.softmax(0).numpy()


def _check(logits: npt.NDArray[np.float32], height: int, width: int) -> None:
    label_map, confidence = upsample_labels(logits, height, width)
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
    label_map, _ = upsample_labels(logits, 16, 16)
    assert (label_map == 1).all()


def test_confidence_of_equal_and_of_certain_classes() -> None:
    assert (upsample_labels(np.zeros((4, 2, 2), np.float32), 8, 8)[1] == 64).all()  # 255 / 4 = 63.75
    certain = np.zeros((4, 2, 2), np.float32)
    certain[2] = 100
    label_map, confidence = upsample_labels(certain, 8, 8)
    assert (label_map == 2).all()
    assert (confidence == 255).all()


def test_huge_logits_do_not_overflow() -> None:
    logits = np.full((3, 2, 2), -3e38, np.float32)
    logits[1] = 3e38
    label_map, confidence = upsample_labels(logits, 9, 9)
    assert (label_map == 1).all()
    assert (confidence == 255).all()


def test_the_corners_are_the_corners() -> None:
    """Half-pixel centres: what is outside the outermost centres takes their value."""
    logits = np.zeros((2, 2, 2), np.float32)
    logits[1] = [[-8, 8], [8, -8]]
    label_map, _ = upsample_labels(logits, 16, 16)
    assert label_map[:4, :4].max() == label_map[-4:, -4:].max() == 0
    assert label_map[:4, -4:].min() == label_map[-4:, :4].min() == 1
