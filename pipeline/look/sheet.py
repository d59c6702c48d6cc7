"""Tiles -> one picture: a line of photograph, labels and confidence per image, with names, shares and a legend."""

import io
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import UsageError
from pipeline.labels.statistics import IGNORE
from pipeline.look.tiles import CELL, Tile, heat_colours, palette

_MARGIN, _GAP, _TEXT_WIDTH = 24, 12, 232
_TITLE, _HEAD, _ROW, _LINE = 62, 30, CELL[1] + 16, 23  # heights in pixels
_INK, _PALE_INK, _WARNING, _GROUND, _LINE_COLOUR = "#1f2328", "#636c76", "#9a3412", "#f3f4f6", "#d8dee4"
_NAMES = 4  # most class names on a picture
_LISTED = 5  # most lines of classes beside a picture
_SCALE_WIDTH = 96
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_QUALITY = 88

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(tiles: Sequence[Tile], title: str, subtitle: str, notes: Sequence[str] = ()) -> Image.Image:
    """Draw the sheet, RGB. It has a confidence column if any tile has a confidence map. notes: lines below everything."""
    return _Sheet(tiles, title, subtitle, notes).draw()


def legible(text: str) -> str:
    """`text` in the letters of Pillow's own font: accents are dropped, letters of other scripts become question marks."""
    return "".join(letter if _has(letter) else _plain(letter) for letter in text)


def _has(letter: str) -> bool:
    return " " <= letter <= "~" or letter in "·…"


def _plain(letter: str) -> str:
    parts = (part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    return "".join(part if _has(part) else "?" for part in parts)


def picture_format(file: str) -> str:
    """Pillow's name of the format for the suffix of a file. Raises `UsageError` for other suffixes, and for URIs."""
    found = _FORMATS.get(PurePath(file).suffix.lower())
    if found is None or "://" in file:
        raise UsageError(f"--to {file}: not a file on this machine that ends in {', '.join(_FORMATS)}")
    return found


def encoded(picture: Image.Image, kind: str) -> bytes:
    """The picture as bytes of this format."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=_QUALITY, optimize=True)
    return buffer.getvalue()


class _Sheet:
    def __init__(self, tiles: Sequence[Tile], title: str, subtitle: str, notes: Sequence[str]) -> None:
        self._tiles, self._title, self._subtitle = tiles, title, subtitle
        self._heads = ["photograph", "labels", *(["confidence"] if any(tile.confidence for tile in tiles) else [])]
        self._text_left = _MARGIN + len(self._heads) * (CELL[0] + _GAP)
        self._width = self._text_left + _TEXT_WIDTH + _MARGIN
        self._notes = [line for note in notes for line in _wrapped(note, 16, self._width - 2 * _MARGIN)]
        self._legend = self._legend_lines()
        self._foot = _TITLE + _HEAD + _ROW * len(tiles)
        height = self._foot + 2 * _GAP + _LINE * (len(self._legend) + len(self._notes)) + _MARGIN // 2
        self._sheet = Image.new("RGB", (self._width, height), "white")
        self._pen = ImageDraw.Draw(self._sheet)

    def draw(self) -> Image.Image:
        title = _shortened(self._title, 24, self._width / 3)
        self._text((_MARGIN, 16), title, 24, bold=True)
        left = _MARGIN + _font(24).getlength(title) + 14
        self._text((left, 23), _shortened(self._subtitle, 16, self._width - _MARGIN - left), 16, _PALE_INK)
        for number, head in enumerate(self._heads):
            self._text((self._left(number), _TITLE), head, 16, _PALE_INK)
        if len(self._heads) > 2:
            self._confidence_scale(self._left(2) + CELL[0], _TITLE)
        for number, tile in enumerate(self._tiles):
            self._tile(tile, number + 1, _TITLE + _HEAD + number * _ROW)
        top = self._foot + _GAP // 2
        for line in self._legend:
            self._legend_line(line, top)
            top += _LINE
        top += _GAP // 2
        for note in self._notes:
            self._text((_MARGIN, top), note, 16, _PALE_INK)
            top += _LINE
        return self._sheet

    def _left(self, number: int) -> int:
        return _MARGIN + number * (CELL[0] + _GAP)

    def _tile(self, tile: Tile, number: int, top: int) -> None:
        for column, picture in enumerate((tile.photograph, self._named(tile), tile.confidence)[: len(self._heads)]):
            left = self._left(column)
            if picture is not None:
                place = left + (CELL[0] - picture.width) // 2, top + (CELL[1] - picture.height) // 2
                self._sheet.paste(picture, place)
            else:
                self._pen.rectangle((left, top, left + CELL[0] - 1, top + CELL[1] - 1), fill=_GROUND)
                self._reason(tile.note if column == 0 else "no confidence map", left, top)
        self._facts(tile, number, top)

    def _reason(self, reason: str, left: int, top: int) -> None:
        lines = _wrapped(reason, 16, CELL[0] - 48)
        for number, line in enumerate(lines):
            y = top + CELL[1] / 2 + (number - len(lines) / 2) * _LINE
            self._pen.text((left + CELL[0] / 2, y), line, _WARNING, _font(16), anchor="ma")

    def _named(self, tile: Tile) -> Image.Image:
        """The labels with the names of the largest classes on them, if there is room."""
        picture = tile.labels.copy()
        pen = ImageDraw.Draw(picture, "RGBA")
        taken: list[tuple[float, float, float, float]] = []
        for found in [found for found in tile.classes if found.place is not None][:_NAMES]:
            name = legible(found.name)
            width, height = pen.textlength(name, _font(16)) + 14, 24.0
            if width > picture.width or height > picture.height or found.place is None:
                continue
            left = min(max(0.0, found.place[0] - width / 2), picture.width - width)
            top = min(max(0.0, found.place[1] - height / 2), picture.height - height)
            box = (left, top, left + width, top + height)
            if any(box[0] < x1 and x0 < box[2] and box[1] < y1 and y0 < box[3] for x0, y0, x1, y1 in taken):
                continue
            taken.append(box)
            pen.rounded_rectangle(box, 5, fill=(20, 24, 30, 215))
            pen.text((left + 7, top + 3), name, "white", _font(16))
        return picture

    def _facts(self, tile: Tile, number: int, top: int) -> None:
        left, room = self._text_left, _TEXT_WIDTH
        head = f"{number}  "
        name = _shortened(tile.image_id, 18, room - _font(18).getlength(head) - 2)
        self._text((left, top), head + name, 18, bold=True)
        self._text((left, top + 26), f"{tile.size[0]} x {tile.size[1]} pixels", 15, _PALE_INK)
        if tile.mean_confidence is not None:
            self._text((left, top + 47), f"mean confidence {tile.mean_confidence:.2f}", 15, _PALE_INK)
        is_ignored = tile.ignored >= 0.0005
        lines, line = _LISTED - is_ignored, top + 74
        listed = tile.classes if len(tile.classes) <= lines else tile.classes[: lines - 1]
        for found in listed:
            self._share(found.class_id, found.name, found.share, (left, line))
            line += _LINE
        if len(tile.classes) > len(listed):
            self._text((left + 24, line), f"and {len(tile.classes) - len(listed)} more", 16, _PALE_INK)
            line += _LINE
        elif not tile.classes and tile.ignored < 1:
            self._text((left, line), "background only", 16, _PALE_INK)
            line += _LINE
        if is_ignored:
            self._share(IGNORE, "ignored", tile.ignored, (left, line))

    def _share(self, class_id: int, name: str, share: float, place: tuple[int, int]) -> None:
        left, top = place
        self._swatch(class_id, left, top)
        self._text((left + 24, top), _shortened(name, 16, _TEXT_WIDTH - 84), 16)
        percent = f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %"
        self._pen.text((left + _TEXT_WIDTH, top), percent, _INK, _font(16), anchor="ra")

    def _confidence_scale(self, right: int, top: int) -> None:
        """Draw `0 [colours] 1`, which ends at `right`."""
        self._pen.text((right, top), "1", _PALE_INK, _font(16), anchor="ra")
        end = right - 16
        levels = np.linspace(0, 255, _SCALE_WIDTH).round().astype(np.uint8)
        ramp = Image.fromarray(np.repeat(heat_colours()[levels][None], 14, axis=0))
        self._sheet.paste(ramp, (end - _SCALE_WIDTH, top + 3))
        self._pen.text((end - _SCALE_WIDTH - 7, top), "0", _PALE_INK, _font(16), anchor="ra")

    def _legend_lines(self) -> list[list[tuple[int, str]]]:
        """All classes of the sheet by id, as many per line as fit."""
        entries = {found.class_id: _shortened(found.name, 16, 300) for tile in self._tiles for found in tile.classes}
        if any(tile.ignored for tile in self._tiles):
            entries[IGNORE] = "ignored (below the threshold)"
        lines: list[list[tuple[int, str]]] = []
        left = float(self._width)
        for class_id, name in sorted(entries.items()):
            if left + _legend_width(name) > self._width - _MARGIN:
                lines.append([])
                left = _MARGIN
            lines[-1].append((class_id, name))
            left += _legend_width(name)
        return lines

    def _legend_line(self, entries: Sequence[tuple[int, str]], top: int) -> None:
        left = float(_MARGIN)
        for class_id, name in entries:
            self._swatch(class_id, int(left), top)
            self._text((left + 22, top), name, 16)
            left += _legend_width(name)

    def _swatch(self, class_id: int, left: int, top: int) -> None:
        colour = tuple(palette()[class_id].tolist())
        self._pen.rectangle((left, top + 3, left + 14, top + 17), fill=colour, outline=_LINE_COLOUR)

    def _text(self, place: tuple[float, float], text: str, size: int, colour: str = _INK, *, bold: bool = False) -> None:
        self._pen.text(place, legible(text), colour, _font(size), stroke_width=0.4 if bold else 0)


_LONGEST_NAME = 200  # only so many characters are measured: the name of a member may have a megabyte


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)  # Aileron, which comes with Pillow, so all machines draw alike


def _legend_width(name: str) -> float:
    return 22 + _font(16).getlength(legible(name)) + 20


def _shortened(text: str, size: int, width: float) -> str:
    """The end of the text, as much as fits: names differ at their end."""
    end = legible(text[-_LONGEST_NAME:])
    if len(text) <= _LONGEST_NAME and _font(size).getlength(end) <= width:
        return end
    text = end
    while text and _font(size).getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def _wrapped(text: str, size: int, width: float) -> list[str]:
    lines = [""]
    for word in legible(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(size).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
