"""`fast_decode`: small photographs to the bit as without it, large ones sooner and of the same size, the run another one."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.api.segmenter import Segmenter
from pipeline.config import PILLOW_MAX_PIXELS, load_config
from pipeline.errors import CorruptImage, ImageTooLarge, RunMismatch
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.labels.png import decode_png
from pipeline.labels.prepare import prepare
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest
from pipeline.plan.fingerprint import check_same, settings
from pipeline.plan.options import label_options
from tests.support.corpus import images
from tests.support.images import encode, scene

LARGE = (4000, 3000)
SHORT_SIDE = 128


@pytest.fixture(scope="module")
def network() -> Prepared:
    return prepare(NetworkRequest(model="lraspp_mobilenet_v3_large", weights="bundled", engine="openvino", short_side=SHORT_SIDE))


@pytest.fixture(scope="module")
def labellers(network: Prepared) -> tuple[Labeller, Labeller]:
    engine = load_engine(network)
    plain = LabelOptions(classes=network.classes, preset=network.preset)
    return (
        Labeller(engine, plain),
        Labeller(engine, LabelOptions(classes=network.classes, preset=network.preset, fast_decode=True)),
    )


@pytest.fixture(scope="module")
def large() -> bytes:
    return encode(scene().resize(LARGE), "JPEG", quality=90)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(scene().resize((1200, 900)), "JPEG", quality=90, exif=exif.tobytes())


@pytest.mark.parametrize("side", [4 * SHORT_SIDE - 1, SHORT_SIDE, 48])
def test_photographs_below_twice_what_is_kept_stay_as_they_are(labellers: tuple[Labeller, Labeller], side: int) -> None:
    data = encode(scene().resize((side + 40, side)), "JPEG", quality=90)
    plain, fast = (labeller.read(data) for labeller in labellers)
    assert (plain.pixels_HWC == fast.pixels_HWC).all()
    masks = [labeller.label(read).columns["mask"] for labeller, read in zip(labellers, (plain, fast), strict=True)]
    assert masks[0] == masks[1]


def test_the_first_size_that_is_decoded_smaller() -> None:
    for side, stored in ((255, 255), (256, 128), (511, 256), (512, 128), (1024, 128)):
        photograph = decode(encode(Image.new("RGB", (side, side)), "JPEG"), max_source_pixels=PILLOW_MAX_PIXELS, min_side=128)
        assert photograph.stored.size == (stored, stored)
        assert photograph.size == (side, side)


def test_a_large_photograph_keeps_its_size(labellers: tuple[Labeller, Labeller], large: bytes) -> None:
    plain, fast = (labeller.read(large) for labeller in labellers)
    assert labellers[1].decode(large).stored.size == (500, 375)
    assert plain.pixels_HWC.shape == fast.pixels_HWC.shape == (128, 170, 3)
    difference = np.abs(plain.pixels_HWC.astype(int) - fast.pixels_HWC)
    assert 0 < difference.max() < 12
    assert difference.mean() < 0.5
    columns = labellers[1].label(fast).columns
    assert (columns["width"], columns["height"], columns["orientation"]) == (*LARGE, 1)
    mask = columns["mask"]
    assert isinstance(mask, dict)
    assert decode_png(mask["bytes"]).shape == LARGE[::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_one_is_turned(labellers: tuple[Labeller, Labeller], orientation: int) -> None:
    plain, fast = (labeller.read(turned(orientation)) for labeller in labellers)
    assert (fast.width, fast.height, fast.orientation) == (plain.width, plain.height, orientation)
    assert (fast.width > fast.height) == (orientation < 5)
    assert np.abs(plain.pixels_HWC.astype(int) - fast.pixels_HWC).mean() < 1


def test_edges_do_not_move_where_the_size_is_no_multiple() -> None:
    """1025 pixels are 128.125 eighths: a 129th column is stored, but only an eighth of it is the photograph."""
    wave = np.abs(np.arange(1025) % 510 - 255).astype(np.uint8)  # a level a pixel: stretched to 129, its end would be 7 away
    data = encode(Image.fromarray(np.tile(wave, (1025, 1))).convert("RGB"), "JPEG", quality=100, subsampling=0)
    whole, eighth = (decode(data, max_source_pixels=PILLOW_MAX_PIXELS, min_side=side) for side in (None, 128))
    assert eighth.stored.size == (129, 129)
    pixels = [resize(each.stored, 64, max_pixels=4096, original=each.stored_size).astype(int) for each in (whole, eighth)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 3


def test_a_cut_one_fails_in_both(labellers: tuple[Labeller, Labeller], large: bytes) -> None:
    for labeller in labellers:
        with pytest.raises(CorruptImage, match="truncated"):
            labeller.read(large[: len(large) * 6 // 10])


def test_the_limit_is_of_the_original() -> None:
    data = encode(Image.new("RGB", (1000, 1000)), "JPEG")
    assert decode(data, max_source_pixels=1_000_000, min_side=64).stored.size == (125, 125)
    with pytest.raises(ImageTooLarge, match="1000x1000"):
        decode(data, max_source_pixels=999_999, min_side=64)


@pytest.mark.parametrize("name", [name for name, case in images().items() if case.outcome == "mask"])
def test_every_sound_image_has_the_same_row(name: str) -> None:
    case = images()[name]
    photograph = decode(case.data, max_source_pixels=PILLOW_MAX_PIXELS, min_side=8)
    assert (photograph.size, photograph.orientation) == (case.size, case.orientation)
    jpeg = case.data[:2] == b"\xff\xd8"
    assert (photograph.stored.size != photograph.stored_size) == jpeg


def test_another_run(network: Prepared) -> None:
    given = {"input": ("in",), "output": "out"}
    plain, fast = load_config(given), load_config(given | {"fast_decode": True})
    assert not label_options(plain, network).fast_decode
    assert label_options(fast, network).fast_decode
    assert settings(plain, network)["fingerprint"] != settings(fast, network)["fingerprint"]
    with pytest.raises(RunMismatch, match="fast_decode false there, true here") as raised:
        check_same(settings(plain, network), settings(fast, network), "out")
    assert raised.value.exit_code == 2


def test_the_segmenter(large: bytes) -> None:
    labels = Segmenter(short_side=SHORT_SIDE, fast_decode=True)([large])[0]
    assert labels.label_map.shape == LARGE[::-1]
    assert labels.photograph.size == (500, 375)
    assert labels.overlay().size == LARGE
    with Image.open(io.BytesIO(large)) as opened:
        assert Segmenter(short_side=SHORT_SIDE, fast_decode=True)([opened])[0].photograph.size == LARGE
