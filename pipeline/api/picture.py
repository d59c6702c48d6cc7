"""A contact sheet of a run: photograph | mask | confidence."""

from itertools import islice

import numpy as np
from PIL import Image, ImageDraw

from pipeline.api.opened import Run
from pipeline.labels.png import decode_mask, overlay

_GAP = 6
_CAPTION = 16


def contact_sheet(run: Run, *, images: int = 6, height: int = 220) -> Image.Image:
    """Rows of photograph, overlay and (where the run stored it) confidence, RGB, `height` pixels a row.

    Raises `ValueError` for a run without masks.
    """
    rows: list[list[Image.Image]] = []
    captions: list[str] = []
    for row in islice((row for batch in run.masks.to_batches() for row in batch.to_pylist()), images):
        photograph, mask = run.image(row), decode_mask(row["mask"]["bytes"])
        cells = [photograph, overlay(photograph, np.asarray(mask))]
        if (confidence := row.get("confidence")) is not None:
            cells.append(decode_mask(confidence["bytes"]).convert("RGB"))
        rows.append([cell.resize((round(cell.width * height / cell.height), height)) for cell in cells])
        found = sorted((entry for entry in row["classes"] if entry["class_id"]), key=lambda entry: -entry["pixels"])
        names = ", ".join(f"{entry['name']} {100 * entry['fraction']:.0f} %" for entry in found[:4] if entry["fraction"] > 0.01)
        captions.append(f"{row['image_id']}: {names or 'background only'}")
    if not rows:
        raise ValueError("a run without masks")
    return _paste(rows, captions, height)


def _paste(rows: list[list[Image.Image]], captions: list[str], height: int) -> Image.Image:
    width = max(sum(cell.width + _GAP for cell in row) for row in rows) - _GAP
    step = height + _CAPTION + _GAP
    sheet = Image.new("RGB", (width, step * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        draw.text((2, number * step + 2), caption, fill="black")
        left = 0
        for cell in row:
            sheet.paste(cell, (left, number * step + _CAPTION))
            left += cell.width + _GAP
    return sheet
