"""Flags -> how often a worker gives a sign, and how long one is waited for."""

from typing import Any

import pytest

from pipeline.config import SegmentConfig
from pipeline.image.resize import Preset
from pipeline.model.engine import Prepared
from pipeline.plan.options import heartbeat_rows, idle_minutes


def _config(**flags: Any) -> SegmentConfig:
    return SegmentConfig(input=("x",), output="/out", **flags)


def _network(model: str, short_side: int) -> Prepared:
    preset = Preset(short_side, (0.0,) * 3, (1.0,) * 3)
    return Prepared(
        model=model, engine="torch", precision="fp32", weights="", weights_sha256="", classes=("a",), preset=preset, graph=b"",
        tensors=b"",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "short_side", "seconds_an_image"),
    [
        ("lraspp_mobilenet_v3_large", 520, 0.2),
        ("lraspp_mobilenet_v3_large", 2048, 3.0),
        ("deeplabv3_mobilenet_v3_large", 520, 1.0),
        ("deeplabv3_resnet50", 520, 6.0),  # measured, in torch on one thread
        ("deeplabv3_resnet50", 1024, 35.0),  # the same
        ("fcn_resnet50", 2048, 140.0),
    ],
)
def test_a_node_four_times_as_slow_gives_a_sign_in_time(model: str, short_side: int, seconds_an_image: float) -> None:
    """A part of 256 took an hour and a half, its first sign came after half of it, and the clock said 30 minutes."""
    config = _config(model=model)
    assert heartbeat_rows(_network(model, short_side)) * 4 * seconds_an_image < 60 * config.idle_minutes


def test_a_small_network_gives_few_signs() -> None:
    """Of a thousand workers each is 3 ms of the driver."""
    assert heartbeat_rows(_network("lraspp_mobilenet_v3_large", 520)) == 128
    assert heartbeat_rows(_network("lraspp_mobilenet_v3_large", 32)) == 128


def test_images_that_may_take_long_are_waited_for() -> None:
    assert idle_minutes(_config()) == 30
    assert idle_minutes(_config(image_timeout_s=1200)) == 60
    assert idle_minutes(_config(image_timeout_s=3, idle_minutes=0.3)) == 0.3
