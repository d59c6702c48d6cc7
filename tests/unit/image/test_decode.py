"""Every nasty image of the corpus: mask or failure, size, orientation, error; and that upright means upright."""

import io
import json
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import PILLOW_MAX_PIXELS
from pipeline.errors import BadImage, CorruptImage, ImageTooLarge, UnsupportedFormat
from pipeline.image.decode import decode, photograph_of
from pipeline.image.resize import resize
from tests.conftest import ROOT
from tests.fuzz.mutations import mutate
from tests.support.corpus import images
from tests.support.decoders import decoders
from tests.support.images import SIZE, encode, jpeg, refused_by_pillow, scene

CASES = images()
DECODERS = decoders()
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


@pytest.mark.parametrize("raises", ["load", "getexif"])
def test_memory_that_runs_out_says_nothing_of_the_image(monkeypatch: pytest.MonkeyPatch, raises: str) -> None:
    """Nor of how it is to be turned."""

    def short(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(f"PIL.PngImagePlugin.PngImageFile.{raises}", short)
    with pytest.raises(MemoryError):
        decode(encode(scene(), "PNG"), max_source_pixels=LIMIT)


_SHORT_OF_MEMORY = """
import json, resource
from PIL import Image
from pipeline.image.decode import decode
from pipeline.errors import BadImage
from tests.support.images import encode, scene
from tests.support.memory import data_bytes
KINDS = {
    "PNG": ("PNG", {}), "JPEG": ("JPEG", {}), "BMP": ("BMP", {}), "TIFF": ("TIFF", {}),
    "LZW": ("TIFF", {"compression": "tiff_lzw"}), "WEBP": ("WEBP", {}), "LOSSLESS": ("WEBP", {"lossless": True}),
}
sizes = [(640, 480), (1280, 960), (1600, 1200)]
images = [(name, encode(scene().resize(size), kind, **how)) for size in sizes for name, (kind, how) in KINDS.items()]
for kind, how in KINDS.values():
    decode(encode(scene(), kind, **how), max_source_pixels=1 << 30)  # loads what it needs
said = []
for room in (64, 256, 1024, 4096, 8192, 16384):  # KiB
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + (room << 10), resource.RLIM_INFINITY))
    for kind, data in images:
        try:
            decode(data, max_source_pixels=1 << 30)
            found = "a photograph"
        except (BadImage, MemoryError) as error:
            found = f"{type(error).__name__}: {error}" if isinstance(error, BadImage) else "MemoryError"
        said.append([kind, found])
resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps(said))
"""


def test_no_sound_image_fails_where_memory_is_short() -> None:
    """Most libraries say only that they failed: WebP's that it "could not create decoder object", whatever the reason."""
    done = subprocess.run([sys.executable, "-c", _SHORT_OF_MEMORY], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = [tuple(each) for each in json.loads(done.stdout)]
    assert {what for _, what in found} == {"a photograph", "MemoryError"}
    assert {kind for kind, what in found if what == "MemoryError"} >= {"WEBP", "LOSSLESS"}


@pytest.mark.parametrize("lossless", [False, True])
def test_a_damaged_webp_is_corrupt_where_memory_is_not_short(lossless: bool) -> None:
    data = encode(scene(), "WEBP", lossless=lossless)
    for broken in (data[:40], data[:15] + b"?" + data[16:]):
        with pytest.raises(CorruptImage):
            decode(broken, max_source_pixels=LIMIT)


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


@pytest.mark.parametrize("min_side", [None, 8])
@pytest.mark.parametrize("name", DECODERS)
def test_what_pillow_refuses_is_never_a_photograph(name: str, min_side: int | None) -> None:
    """A decoder that has failed may hand out what it had by then to whoever asks twice."""
    assert refused_by_pillow(DECODERS[name]) is None
    accepted, refused = [], 0
    for seed in range(60):
        data = mutate(DECODERS[name], random.Random(seed))
        try:
            decode(data, max_source_pixels=1 << 22, min_side=min_side)
        except BadImage:
            refused += 1
        else:
            accepted.append(refused_by_pillow(data))
    assert [why for why in accepted if why is not None] == []
    assert refused > 2


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    data = CASES["orientation_6_png.png"].data
    kind = data.index(b"eXIf")
    exif = data[kind - 4 : kind + 8 + int.from_bytes(data[kind - 4 : kind], "big")]
    end = data.index(b"IEND") - 4
    moved = data[: kind - 4] + data[kind - 4 + len(exif) : end] + exif + data[end:]
    assert moved.index(b"eXIf") > moved.index(b"IDAT")
    photograph = decode(moved, max_source_pixels=LIMIT)
    assert (photograph.orientation, photograph.size) == (6, SIZE)


def raw_of(tags: dict[int, object], **options: object) -> bytes:
    """What a camera writes: a TIFF whose first image is a small one."""
    return encode(scene().resize((160, 120)), "TIFF", tiffinfo=tags, **options)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (raw_of({50706: bytes((1, 4, 0, 0))}), "0001.jpg"),  # DNGVersion
        (raw_of({50706: bytes((1, 4, 0, 0)), 254: 1}, big_tiff=True), "0001.jpg"),
        (raw_of({254: 1, 271: "NIKON CORPORATION"}), "0001.jpg"),  # NewSubfileType: a reduced one
        (raw_of({254: 1}, compression="tiff_lzw"), ""),
        *((raw_of({}), f"s3://bucket/train/DSC_0001.{suffix}") for suffix in ("NEF", "arw", "dng", "cr2", "pef?version=2")),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(64), "0001.jpg"),  # CR2
    ],
)
def test_a_camera_raw_is_not_its_thumbnail(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match="convert it"):
        decode(data, max_source_pixels=LIMIT, name=name)


def pixels_first(image: Image.Image) -> bytes:
    """An uncompressed TIFF as libtiff writes it: pixels from byte 8 on, then the directory."""
    pixels = image.tobytes()
    tags = [
        (256, 4, 1, image.width), (257, 4, 1, image.height), (258, 3, 3, 0), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
        (277, 3, 1, 3), (278, 4, 1, image.height), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = 8 + len(pixels)
    tags[2] = (258, 3, 3, directory + 2 + 12 * len(tags) + 4)  # BitsPerSample: three of them, behind the directory
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", directory) + pixels
    return head + struct.pack("<H", len(tags)) + entries + bytes(4) + struct.pack("<HHH", 8, 8, 8)


def test_other_tiffs_are_labelled_whatever_images_follow() -> None:
    small = scene().resize((32, 24))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    pyramid = encode(scene(), "TIFF", save_all=True, append_images=[small])
    with Image.open(io.BytesIO(pyramid)) as image:
        image.seek(1)
        assert image.getexif()[254] == 1
        assert photograph_of(image).size == (32, 24), "who opened it chose this one"
    for data in (pyramid, raw_of({254: 0}), raw_of({254: 2, 297: (0, 2)}), raw_of({271: "NIKON CORPORATION", 330: 8})):
        assert decode(data, max_source_pixels=LIMIT, name="0001.tif").image.mode == "RGB"
    assert decode(jpeg(), max_source_pixels=LIMIT, name="0001.nef").size == SIZE  # what it is decides, if it can be read
    red = Image.new("RGB", (64, 48), (ord("C"), ord("R"), 2))
    assert decode(pixels_first(red), max_source_pixels=LIMIT, name="0001.tif").stored.getpixel((0, 0)) == (67, 82, 2)


@pytest.mark.parametrize("name", ["cut_png.png", "cut_jpeg.jpg"])
def test_an_open_image_that_fails_once_fails_again(name: str) -> None:
    with Image.open(io.BytesIO(CASES[name].data)) as image:
        for _ in range(2):
            with pytest.raises(CorruptImage):
                photograph_of(image)


def _gray_tiff(values: np.ndarray, *, bits: int, photometric: int = 1, order: str = "<", signed: bool = False) -> bytes:
    """One uncompressed strip of a row or more."""
    height, width = values.shape
    if bits == 12:
        pairs = values.astype(np.uint32).reshape(height, -1, 2)
        packed = np.stack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255], -1)
        strip = packed.astype(np.uint8).tobytes()
    else:
        strip = values.astype(f"{order}{'i' if signed else 'u'}{bits // 8}").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
            (279, len(strip)), (339, 2 if signed else 1)]  # fmt: skip
    directory = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(strip))
    return header + strip + struct.pack(f"{order}H", len(tags)) + directory + bytes(4)


_LEVELS = np.arange(0, 256, dtype=np.uint32).reshape(16, 16)


@pytest.mark.parametrize(
    ("data", "inverted"),
    [
        (_gray_tiff(_LEVELS, bits=8), False),
        (_gray_tiff(_LEVELS, bits=8, photometric=0), True),
        (_gray_tiff(_LEVELS * 257, bits=16), False),
        (_gray_tiff(_LEVELS * 257, bits=16, order=">"), False),
    ],
    ids=["8", "8 white is zero", "16", "16 big endian"],
)
def test_gray_tiffs_are_as_light_as_they_are(data: bytes, *, inverted: bool) -> None:
    found = np.asarray(decode(data, max_source_pixels=1 << 20).image)[..., 0]
    assert np.array_equal(found, 255 - _LEVELS if inverted else _LEVELS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_gray_tiff(_LEVELS * 16 + 7, bits=12), "12-bit pixels have no defined range"),
        (_gray_tiff(_LEVELS * 257, bits=16, photometric=0), "16-bit pixels of which 0 is white"),
    ],
    ids=["12", "16 white is zero"],
)
def test_gray_that_pillow_reads_as_other_gray_is_refused(data: bytes, reason: str) -> None:
    """It was labelled as black, or as its negative."""
    with pytest.raises(UnsupportedFormat, match=reason):
        decode(data, max_source_pixels=1 << 20)


@pytest.mark.parametrize("top", [255, 65_535, 1 << 24])
@pytest.mark.parametrize(("bits", "signed"), [(32, False), (32, True), (16, True)])
def test_integers_without_a_range_are_refused_whatever_the_pixels_are(bits: int, signed: bool, top: int) -> None:
    data = _gray_tiff(np.minimum(_LEVELS * (top // 255), (1 << (bits - signed)) - 1), bits=bits, signed=signed)
    with pytest.raises(UnsupportedFormat, match="range"):
        decode(data, max_source_pixels=1 << 20)
