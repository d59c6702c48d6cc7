"""Parts with valid footers and no rows, for code that reads only footers and listings."""

from dataclasses import replace

import numpy as np

from pipeline.output.footer import Failure, PartFooter, failures_bytes, footer_length, part_bytes
from pipeline.output.parts import PartName
from pipeline.shards.base import Cursor
from pipeline.storage import WritableStore, join

CLASSES = ("background", "cat", "dog")
FINGERPRINT = "f" * 64
PART_IMAGES = 4
SIZE = 8008  # modulo 10: four rows, not the last


def made_up_footer(number: int, *, error: str | None = None, shard: str | None = None, images: int = PART_IMAGES) -> PartFooter:
    """The footer of part `number` of a tar, which is not the last. error: of its last image. Every number has other sums."""
    shard, first = shard or "/in/a.tar", PART_IMAGES * number
    failures = () if error is None else (Failure(f"{first + images - 1}", shard, first + images - 1, "decode", error, "so", 7),)
    masks = images - len(failures)
    histograms = np.zeros((len(CLASSES), 256), np.int64)
    histograms[number % 3, 7 * number % 256], histograms[0, 255] = 100 * masks, number
    return PartFooter(
        fingerprint=FINGERPRINT, source={"uri": shard, "size": 1000, "version": "etag:1"}, first=first, rows=images, last=False,
        masks=masks, broken=False, failures=failures, histograms=histograms, images_by_class=(masks, number % 2, 0),
        pixels_by_class=tuple(histograms.sum(axis=1).tolist()), pixels=int(histograms.sum()),
        digest=f"{(number + 1) ** 40:064x}"[-64:], after=Cursor(first + images), part_images=PART_IMAGES,
    )  # fmt: skip


def commit(store: WritableStore, out: str, footer: PartFooter) -> PartName:
    """Commit a part as a worker does, but with the same size for all parts -> the part as a listing names it."""
    data = part_bytes([], footer, confidence_map=False)
    at = len(data) - footer_length(data)
    data = data[:at] + bytes(SIZE - len(data)) + data[at:]
    version = store.create(join(out, "masks", str(footer.name)), data)
    assert version is not None
    if footer.failures:
        store.replace(join(out, "failures", str(footer.name)), failures_bytes(footer))
    return replace(footer.name, size=len(data), version=version)


def make_anew(store: WritableStore, out: str, footer: PartFooter) -> PartName:
    """Do what `--redo` in another attempt does: put another part of the same name, here also of the same size."""
    for folder in ("failures", "masks"):
        store.delete(join(out, folder, str(footer.name)))
    return commit(store, out, footer)
