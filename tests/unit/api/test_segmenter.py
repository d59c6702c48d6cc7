"""Images -> labels without Ray: what it says where memory runs out."""

from typing import NoReturn

import pytest
from PIL import Image

from pipeline import SegmentBatch, Segmenter
from pipeline.errors import ImageTooLarge
from tests.support.images import encode, scene


def test_memory_that_runs_out_is_an_image_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run tries it again by itself; here nobody does, and a batch goes on."""

    def short(self: Image.Image) -> NoReturn:
        raise MemoryError

    segmenter, batch = Segmenter(short_side=32), SegmentBatch(short_side=32)
    data = encode(scene(), "PNG")
    with monkeypatch.context() as patched:
        patched.setattr("PIL.PngImagePlugin.PngImageFile.load", short)
        with pytest.raises(ImageTooLarge, match="does not fit into memory"):
            segmenter([data])
        labelled = batch({"image": [data]})
    assert labelled.column("error").to_pylist() == ["ImageTooLarge: it does not fit into memory"]
    assert batch({"image": [data]}).column("error").to_pylist() == [None]
