"""What a tile shows: pixels at known places, and a line for every photograph that cannot be shown."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.api.opened import open_run
from pipeline.errors import Damaged, HostUnreachable, ObjectDenied, ObjectMissing, StorageError, StorageRefused, UnknownScheme
from pipeline.labels.png import encode_gray, encode_mask, voc_palette
from pipeline.look.tiles import CELL, GRAY_LOW, GRAY_SHARE, NO_PHOTOGRAPH, OPACITY, SCALE, Reader, Tile, fit, heat, paint, tile_of
from tests.support.images import encode, oriented
from tests.support.labelled import change_run, label

CAT, DOG, IGNORE = 8, 12, 255
PALETTE = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((600, 400), (288, 192)), ((400, 600), (128, 192)), ((64, 48), (256, 192)), ((4000, 1000), (288, 72)),
        ((1, 5000), (1, 192)), ((5000, 1), (288, 1)), (CELL, CELL),
    ],
)  # fmt: skip
def test_every_shape_fits_into_a_cell(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert fit(size) == wanted
    assert wanted[0] <= CELL[0]
    assert wanted[1] <= CELL[1]


def _mixed(gray: float, class_id: int) -> npt.NDArray[np.float64]:
    return np.asarray((1 - OPACITY) * gray + OPACITY * PALETTE[class_id], np.float64)


def _halves(left: int, right: int) -> npt.NDArray[np.uint8]:
    """A painted map of 90 x 60: two labels beside each other."""
    label_map = np.full((60 * SCALE, 90 * SCALE), left, np.uint8)
    label_map[:, 45 * SCALE :] = right
    return label_map


def test_a_class_has_its_colour_over_the_pale_photograph() -> None:
    photograph = Image.new("RGB", (90, 60), (100, 100, 100))
    pixels = np.asarray(paint(_halves(0, CAT), photograph, 0), np.float64)
    gray = GRAY_LOW + GRAY_SHARE * 100
    assert pixels.shape == (60, 90, 3)
    assert np.abs(pixels[30, 70] - _mixed(gray, CAT)).max() <= 1
    assert np.abs(pixels[30, 20] - gray).max() <= 1  # background is clear
    for pixel, side in ((pixels[30, 44], gray), (pixels[30, 45], _mixed(gray, CAT))):
        assert np.abs(pixel - (2 * side + 255) / 3).max() <= 1  # and between them a border, a third of a pixel each


def test_without_a_photograph_labels_stand_on_gray() -> None:
    pixels = np.asarray(paint(_halves(CAT, DOG), None, 0), np.float64)
    assert np.abs(pixels[30, 20] - _mixed(NO_PHOTOGRAPH, CAT)).max() <= 1
    assert np.abs(pixels[30, 70] - _mixed(NO_PHOTOGRAPH, DOG)).max() <= 1


def test_class_0_of_other_classes_is_painted() -> None:
    """`road` is no background."""
    pixels = np.asarray(paint(_halves(0, DOG), None, None), np.float64)
    assert np.abs(pixels[30, 20] - _mixed(NO_PHOTOGRAPH, 0)).max() <= 1


def test_ignored_pixels_are_striped() -> None:
    row = np.asarray(paint(np.full((60 * SCALE, 90 * SCALE), IGNORE, np.uint8), None, 0), np.float64)[30]
    is_white = row.min(1) > 250
    assert 0.3 < is_white.mean() < 0.7
    assert np.abs(row[~is_white].mean(0) - _mixed(NO_PHOTOGRAPH, IGNORE)).max() < 12


def test_confidence_has_one_scale_for_all() -> None:
    """Not stretched to the values of an image."""
    low, high = (np.asarray(heat(Image.new("L", (30, 20), value), (15, 10))) for value in (0, 255))
    assert low.shape == (10, 15, 3)
    assert low[5, 5].tolist() == [68, 1, 84]  # viridis' ends, as matplotlib has them
    assert high[5, 5].tolist() == [253, 231, 37]
    half = np.asarray(heat(Image.new("L", (30, 20), 128), (15, 10)))[5, 5]
    assert np.abs(half.astype(int) - (33, 144, 140)).max() <= 6  # matplotlib: viridis(128)


# --- from rows of a real run ------------------------------------------------------------------------------------


def _photograph(width: int = 400, height: int = 300) -> bytes:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return encode(image, "JPEG", quality=95)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """`in/a.jpg` and `in/turned.jpg`, labelled into `out`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(_photograph())
    (tmp_path / "in" / "turned.jpg").write_bytes(oriented(6, "JPEG"))
    label([tmp_path / "in"], tmp_path / "out", confidence_map=True)
    change_run(tmp_path / "out", lambda run: run.update(input=[str(tmp_path / "in")]))
    return tmp_path


def _row(run: Path, name: str = "a.jpg") -> dict[str, Any]:
    rows = open_run(str(run / "out")).masks.to_table().to_pylist()
    return next(row for row in rows if row["image_id"] == name)


def _tile(run: Path, row: dict[str, Any]) -> Tile:
    reader = Reader(open_run(str(run / "out")).photographs)
    return tile_of(row, reader, background=0, max_source_pixels=100_000_000)


def _with_mask(row: dict[str, Any], label_map: npt.NDArray[np.uint8]) -> dict[str, Any]:
    ids = [int(number) for number in np.unique(label_map) if number != IGNORE]
    classes = [
        {"class_id": number, "name": f"class {number}", "pixels": int((label_map == number).sum()),
         "fraction": float((label_map == number).mean()), "mean_confidence": 0.5}
        for number in ids
    ]  # fmt: skip
    return row | {"mask": {"bytes": encode_mask(label_map)}, "classes": classes}


def test_a_tile_of_a_row(run: Path) -> None:
    label_map = np.zeros((300, 400), np.uint8)
    label_map[100:280, 250:390] = CAT
    label_map[:4] = DOG
    tile = _tile(run, _with_mask(_row(run), label_map))
    assert (tile.image_id, tile.size, tile.note) == ("a.jpg", (400, 300), "")
    assert tile.photograph is not None
    assert tile.confidence is not None
    assert tile.photograph.size == tile.labels.size == tile.confidence.size == (256, 192)
    red, blue = tile.photograph.getpixel((70, 100)), tile.photograph.getpixel((200, 100))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > 200 > 60 > red[2]
    assert blue[2] > 200 > 60 > blue[0]
    assert [(found.class_id, found.name) for found in tile.classes] == [(CAT, "class 8"), (DOG, "class 12")]
    assert tile.classes[0].place is not None
    x, y = tile.classes[0].place
    assert 250 * 0.64 < x < 390 * 0.64  # inside the cat
    assert 100 * 0.64 < y < 280 * 0.64
    assert tile.classes[1].place is None  # too thin for a name


def test_a_turned_photograph_is_upright(run: Path) -> None:
    tile = _tile(run, _row(run, "turned.jpg"))
    assert tile.size == (64, 48)
    assert tile.photograph is not None
    assert tile.photograph.size == (256, 192)


def test_a_huge_photograph_is_decoded_small(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "in" / "huge.jpg").write_bytes(_photograph(8000, 6000))
    label([run / "in" / "huge.jpg"], run / "out2")
    change_run(run / "out2", lambda found: found.update(input=[str(run / "in")]))
    (row,) = open_run(str(run / "out2")).masks.to_table().to_pylist()
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(self: Image.Image, *arguments: Any, **more: Any) -> Image.Image:
        if self.mode == "RGB":
            sizes.append(self.size)
        return resize(self, *arguments, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    tile = tile_of(row, Reader(open_run(str(run / "out2")).photographs), background=0, max_source_pixels=100_000_000)
    assert tile.size == (8000, 6000)
    assert tile.photograph is not None
    assert tile.photograph.size == (256, 192)
    assert max(width for width, _ in sizes) <= 1000  # an eighth


def _gone(photograph: Path) -> None:
    photograph.unlink()


def _changed(photograph: Path) -> None:
    photograph.write_bytes(_photograph(300, 400))


def _a_folder(photograph: Path) -> None:
    photograph.unlink()
    photograph.mkdir()


@pytest.mark.parametrize(
    ("happens", "note"),
    [(_gone, "The photograph is gone."), (_changed, "The photograph has changed since it was labelled."), (_a_folder, "")],
)
def test_a_photograph_that_cannot_be_read_leaves_the_labels_and_says_why(run: Path, happens: Any, note: str) -> None:
    row = _row(run)
    happens(run / "in" / "a.jpg")
    tile = _tile(run, row)
    assert tile.photograph is None
    assert tile.labels.size == (256, 192)
    assert note in tile.note
    assert tile.note.endswith(".")
    assert "a.jpg" in tile.detail


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (ObjectDenied("403"), "The store denies the photograph."),
        (StorageRefused("no such key"), "The store of the photograph refuses this user."),
        (StorageError("503"), "The store of the photograph does not answer."),
        (UnknownScheme("gs:// needs gcsfs"), "The photograph cannot be read."),
        (MemoryError(), "The photograph does not fit into memory."),
        (IndexError("no such row"), "The photograph cannot be read."),
    ],
)
def test_what_stores_say_has_words(run: Path, error: Exception, note: str) -> None:
    """Whoever runs the tests is denied no file: so what stores raise is raised here."""
    tile = tile_of(_row(run), Reader(_Store(error)), background=0, max_source_pixels=100_000_000)  # type: ignore[arg-type]
    assert (tile.photograph, tile.note, tile.detail) == (None, note, str(error) or "MemoryError")


def test_a_photograph_outside_the_inputs_is_not_read(run: Path) -> None:
    (run / "mine.jpg").write_bytes(_photograph())
    tile = _tile(run, _row(run) | {"shard": str(run / "mine.jpg")})
    assert tile.note == "The photograph is not read: no input of this run names it."
    assert tile.photograph is None


def test_bytes_that_are_no_image_any_more(run: Path) -> None:
    row = _row(run)
    photographs = open_run(str(run / "out"), check_version=False).photographs
    (run / "in" / "a.jpg").write_bytes(b"x" * row["length"])
    tile = tile_of(row, Reader(photographs), background=0, max_source_pixels=100_000_000)
    assert tile.note == "The photograph cannot be decoded."


def test_another_size_is_another_photograph(run: Path) -> None:
    row = _row(run)
    tile = _tile(run, _with_mask(row | {"width": 200}, np.zeros((300, 200), np.uint8)) | {"confidence": None})
    assert tile.note == "The photograph has changed since it was labelled."


def test_a_run_without_confidence_has_none(run: Path) -> None:
    tile = _tile(run, _row(run) | {"confidence": None, "mean_confidence": None})
    assert tile.confidence is None
    assert tile.mean_confidence is None


PNG = encode_mask(np.zeros((300, 400), np.uint8))


@pytest.mark.parametrize(
    "changed",
    [
        {"mask": None}, {"mask": {"bytes": None}}, {"mask": {"bytes": b"no PNG"}}, {"mask": {"bytes": PNG[:-30]}},
        {"width": None}, {"classes": [None]}, {"mask": {"bytes": encode_mask(np.zeros((300, 401), np.uint8))}},
        {"confidence": {"bytes": encode_gray(np.zeros((1, 1), np.uint8))}},
        {"mask": {"bytes": encode(Image.new("RGB", (400, 300)), "PNG")}},
    ],
)  # fmt: skip
def test_what_is_no_mask_is_damage(run: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        _tile(run, _row(run) | changed)


def test_more_pixels_than_the_run_allows_are_not_unpacked(run: Path) -> None:
    with pytest.raises(Damaged, match="has not the size"):
        tile_of(_row(run), Reader(open_run(str(run / "out")).photographs), background=0, max_source_pixels=1000)


class _Store:
    """Stands for `Photographs`: a real store that is silent takes two minutes to say so."""

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def read(self, _row: object) -> bytes:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "uris", "asked"),
    [
        (HostUnreachable("no answer"), ["s3://b/1", "s3://b/2", "s3://b/3"], 1),
        (HostUnreachable("no answer"), ["https://one/1", "https://two/2"], 2),
        (ObjectMissing("gone"), ["s3://b/1", "s3://b/2"], 2),
        (HostUnreachable("a bad disk"), ["/in/1", "/in/2"], 2),
    ],
)
def test_a_store_that_does_not_answer_is_asked_once(error: Exception, uris: list[str], asked: int) -> None:
    store = _Store(error)
    reader = Reader(store)  # type: ignore[arg-type]
    for uri in uris:
        with pytest.raises(type(error)):
            reader.read({"shard": uri})
    assert store.asked == asked


def test_the_tiles_pictures_are_small(run: Path) -> None:
    """A sheet of 200 photographs fits into memory."""
    tile = _tile(run, _row(run))
    buffer = io.BytesIO()
    for picture in (tile.photograph, tile.labels, tile.confidence):
        assert picture is not None
        picture.save(buffer, "BMP")
    assert buffer.tell() < 600_000
