"""The sheet: what stands where, in which colours, and that nothing is cut off."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.errors import UsageError
from pipeline.labels.png import voc_palette
from pipeline.look.sheet import draw_sheet, encoded, legible, picture_format
from pipeline.look.tiles import CELL, Class, Tile, heat_colours

PALETTE = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)
CAT, DOG, SHEEP = 8, 12, 17
LEFT, TOP, STEP, GAP = 24, 92, CELL[1] + 16, 12  # of the first cell; from one line to the next, and from one cell to the next


def _class(class_id: int, share: float, place: tuple[int, int] | None = None) -> Class:
    return Class(
        class_id=class_id, name={CAT: "cat", DOG: "dog", SHEEP: "sheep"}[class_id], share=share, confidence=0.5, place=place
    )


def _tile(size: tuple[int, int] = CELL, *classes: Class, **more: object) -> Tile:
    values: dict[str, object] = {
        "image_id": "0001", "shard": "/in/a.tar", "index": 0, "size": (640, 480), "mean_confidence": 0.5, "ignored": 0.0,
        "classes": classes, "photograph": Image.new("RGB", size, "red"), "labels": Image.new("RGB", size, "lime"),
        "confidence": Image.new("RGB", size, "blue"),
    }  # fmt: skip
    return Tile(**(values | more))  # type: ignore[arg-type]


def _pixels(sheet: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(sheet.convert("RGB"))


def _cell(pixels: npt.NDArray[np.uint8], line: int, column: int) -> npt.NDArray[np.uint8]:
    left, top = LEFT + column * (CELL[0] + GAP), TOP + line * STEP
    return pixels[top : top + CELL[1], left : left + CELL[0]]


def _holds(pixels: npt.NDArray[np.uint8], colour: object) -> int:
    """How many pixels have this colour."""
    return int((pixels == np.array(colour, np.uint8)).all(-1).sum())


def test_photograph_labels_confidence_stand_in_a_line() -> None:
    pixels = _pixels(draw_sheet([_tile(), _tile()], "run", "2 of 2 images"))
    for line in range(2):
        for column, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
            assert (_cell(pixels, line, column) == colour).all()
    assert (pixels[TOP - 1, LEFT : LEFT + CELL[0]] == 255).all()  # white around them
    assert (pixels[:, :LEFT] == 255).all()
    assert (pixels[:, -10:] == 255).all()


def test_a_portrait_is_in_the_middle_of_its_cell() -> None:
    cell = _cell(_pixels(draw_sheet([_tile((144, CELL[1]))], "run", "")), 0, 0)
    assert (cell[:, 72:216] == (255, 0, 0)).all()
    assert (cell[:, :72] == 255).all()
    assert (cell[:, 216:] == 255).all()


def test_without_confidence_there_is_no_such_column() -> None:
    with_it = draw_sheet([_tile(), _tile(confidence=None)], "run", "")
    without = draw_sheet([_tile(confidence=None)] * 2, "run", "")
    assert with_it.width - without.width == CELL[0] + GAP
    scale = heat_colours()[np.linspace(0, 255, 96).round().astype(int)]  # all of its 96 pixels, from 0 to 1
    assert all(_holds(_pixels(with_it)[:TOP], colour) for colour in scale)
    assert not any(_holds(_pixels(without)[:TOP], colour) for colour in scale)


def test_the_legend_has_the_classes_of_the_sheet_once_and_no_others() -> None:
    tiles = [_tile(CELL, _class(CAT, 0.5), _class(DOG, 0.1)), _tile(CELL, _class(CAT, 0.2))]
    pixels = _pixels(draw_sheet(tiles, "run", ""))
    legend = pixels[TOP + 2 * STEP :]
    assert [_holds(legend, PALETTE[class_id]) for class_id in (CAT, DOG, SHEEP)] == [13 * 13, 13 * 13, 0]
    assert not _holds(legend, PALETTE[255])
    ignored = _pixels(draw_sheet([_tile(CELL, ignored=0.25)], "run", ""))
    assert _holds(ignored[TOP + STEP :], PALETTE[255]) == 13 * 13


def test_each_line_names_its_classes_in_their_colours() -> None:
    tiles = [_tile(CELL, _class(CAT, 0.5), _class(DOG, 0.1)), _tile(CELL, _class(SHEEP, 0.2), ignored=0.1)]
    pixels = _pixels(draw_sheet(tiles, "run", ""))[:, LEFT + 3 * (CELL[0] + GAP) :]
    first, second = pixels[TOP : TOP + STEP], pixels[TOP + STEP : TOP + 2 * STEP]
    assert [_holds(first, PALETTE[number]) for number in (CAT, DOG, SHEEP, 255)] == [169, 169, 0, 0]
    assert [_holds(second, PALETTE[number]) for number in (CAT, DOG, SHEEP, 255)] == [0, 0, 169, 169]


def test_a_name_stands_on_its_class_and_inside_the_picture() -> None:
    for place in [(144, 96), (0, 0), (287, 191)]:
        cell = _cell(_pixels(draw_sheet([_tile(CELL, _class(CAT, 0.5, place))], "run", "")), 0, 1)
        dark = (cell < 100).all(-1)
        assert dark.sum() > 200
        rows, columns = np.nonzero(dark)
        assert abs(columns.mean() - np.clip(place[0], 18, CELL[0] - 18)) < 6
        assert abs(rows.mean() - np.clip(place[1], 12, CELL[1] - 12)) < 4
        assert (cell == 255).all(-1).sum() > 10  # its letters


def test_names_never_cover_each_other() -> None:
    one = _cell(_pixels(draw_sheet([_tile(CELL, _class(CAT, 0.5, (100, 100)))], "run", "")), 0, 1)
    both = _cell(_pixels(draw_sheet([_tile(CELL, _class(CAT, 0.5, (100, 100)), _class(DOG, 0.1, (104, 104)))], "run", "")), 0, 1)
    assert np.array_equal(one, both)


def test_a_missing_photograph_says_why() -> None:
    tile = _tile(photograph=None, note="The photograph is gone.")
    cell = _cell(_pixels(draw_sheet([tile], "run", "")), 0, 0)
    assert _holds(cell, (154, 52, 18)) > 50  # the reason's colour
    assert (cell[:, :8] == (243, 244, 246)).all()
    assert (cell[:, -8:] == (243, 244, 246)).all()


@pytest.mark.parametrize("name", ["x" * 500, "a/b/" * 100 + "0001.jpg", "\u4e2d" * 80])
def test_long_names_stay_on_the_sheet(name: str) -> None:
    tile = _tile(CELL, Class(class_id=CAT, name=name, share=0.5, confidence=None, place=(144, 96)), image_id=name)
    pixels = _pixels(draw_sheet([tile], name, name))
    assert (pixels[:, -22:] == 255).all()
    assert (_cell(pixels, 0, 2) == (0, 0, 255)).all()


def test_many_classes_stay_in_their_line() -> None:
    classes = tuple(Class(class_id=number, name=f"class {number}", share=0.01, confidence=None) for number in range(1, 200))
    pixels = _pixels(draw_sheet([_tile(CELL, *classes, ignored=0.2), _tile()], "run", ""))
    beside = pixels[:, LEFT + 3 * (CELL[0] + GAP) :]
    assert (beside[TOP + CELL[1] : TOP + STEP] == 255).all()  # between the lines
    assert (pixels[-8:] == 255).all()
    assert pixels.shape[0] > TOP + 2 * STEP + 20 * 23  # all of them are in the legend


def test_notes_are_wrapped() -> None:
    short, long = (draw_sheet([_tile()], "run", "", [note]) for note in ("One line.", "word " * 200))
    assert short.width == long.width
    assert long.height > short.height + 5 * 23
    assert (_pixels(long)[:, -20:] == 255).all()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("caf\u00e9 42 %", "cafe 42 %"), ("\u4e2d\u6587.jpg", "??.jpg"), ("a\nb\x1b[2J", "a?b?[2J"),
     ("\ufb01sh \u00b7 \u2026", "fish \u00b7 \u2026")],
)  # fmt: skip
def test_letters_that_the_font_has_not(text: str, wanted: str) -> None:
    assert legible(text) == wanted


def test_every_letter_that_is_drawn_is_in_the_font() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(16)
    absent = bytes(font.getmask("\uffff"))
    letters = [chr(number) for number in range(33, 127)] + ["\u00b7", "\u2026"]
    assert [letter for letter in letters if bytes(font.getmask(letter)) == absent] == []


@pytest.mark.parametrize(("file", "kind"), [("a.jpg", "JPEG"), ("b/c.JPEG", "JPEG"), ("out.x/a.png", "PNG")])
def test_formats_by_suffix(file: str, kind: str) -> None:
    assert picture_format(file) == kind
    assert encoded(draw_sheet([_tile()], "run", ""), kind).startswith({"JPEG": b"\xff\xd8", "PNG": b"\x89PNG"}[kind])


@pytest.mark.parametrize("file", ["a", "a.gif", "a.webp", "s3://bucket/a.png", "jpg"])
def test_files_that_it_does_not_write(file: str) -> None:
    with pytest.raises(UsageError, match=r"--to .*: not a file on this machine that ends in \.jpg, \.jpeg, \.png"):
        picture_format(file)
