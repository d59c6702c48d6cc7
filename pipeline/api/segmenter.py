"""`Segmenter` and `SegmentBatch`: images -> labels, for notebooks and for other people's Ray Data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pipeline import errors
from pipeline.config import PILLOW_MAX_PIXELS
from pipeline.errors import BadImage
from pipeline.image.decode import Photograph, photograph_of
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.labels.png import overlay
from pipeline.labels.prepare import prepare
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest
from pipeline.model.zoo import DEFAULT_MODEL
from pipeline.schema import masks_schema

_KEYS = ("image_id", "shard", "index", "member", "offset", "length")  # only in runs; a batch has key columns of its own


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one photograph.

    Attributes:
        label_map: uint8 (H, W) of the upright image: class ids; 255 below `min_confidence`.
        confidence: uint8 (H, W): `round(255 * max softmax)`.
        classes: the classes in the label map by id, each with class_id, name, pixels, fraction,
            mean_confidence (0 to 1) and bbox (x, y, width, height in pixels).
        photograph: the upright RGB image; with `fast_decode` it is smaller than the label map for a large JPEG.
    """

    label_map: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    classes: list[dict[str, Any]]
    photograph: Image.Image

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The photograph with the classes in the colours of PASCAL VOC; background stays clear."""
        height, width = self.label_map.shape
        photograph = self.photograph if self.photograph.size == (width, height) else self.photograph.resize((width, height))
        return overlay(photograph, self.label_map, opacity)


class Segmenter:
    """Labels images in this process, without Ray.

    >>> from PIL import Image
    >>> labels = Segmenter("bundled", short_side=64)([Image.new("RGB", (80, 60), "navy")])[0]
    >>> labels.label_map.shape, labels.confidence.dtype
    ((60, 80), dtype('uint8'))

    Args:
        weights: `bundled`, a torchvision weights enum member, or the URI of a .pth or .safetensors file.
        model: torchvision's name of the network.
        engine: `openvino`, or `torch`, the reference.
        precision: `fp32`, or `bf16` if the CPU has it.
        classes: file with the class names, for weights with other classes.
        short_side: pixels; by default what the weights say.
        min_confidence: 0 to 1; pixels with a lower confidence become 255.
        max_pixels: most pixels of a resized input.
        max_source_pixels: most pixels of a photograph.
        fast_decode: decode large JPEGs at 1/2, 1/4 or 1/8 of their size: faster, but a few label pixels differ.

    Raises:
        UsageError, NotReachable: the weights do not fit or cannot be fetched, or this CPU does not have the precision.
    """

    def __init__(
        self, weights: str = "bundled", *, model: str = DEFAULT_MODEL, engine: str = "openvino", precision: str = "fp32",
        classes: str | None = None, short_side: int | None = None, min_confidence: float = 0.0, max_pixels: int = 4_000_000,
        max_source_pixels: int = PILLOW_MAX_PIXELS, fast_decode: bool = False,
    ) -> None:  # fmt: skip
        request = NetworkRequest(
            model=model, weights=weights, engine=engine, precision=precision, classes=classes, short_side=short_side
        )
        network = prepare(request)
        options = LabelOptions(
            classes=network.classes, preset=network.preset, min_confidence=min_confidence, max_pixels=max_pixels,
            max_source_pixels=max_source_pixels, fast_decode=fast_decode,
        )  # fmt: skip
        self._labeller = Labeller(load_engine(network), options)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; the position is the class id."""
        return self._labeller.options.classes

    def __call__(self, images: Iterable[Image.Image | bytes]) -> list[Labels]:
        """Labels of each image, PIL or encoded bytes, in order. Raises `BadImage` at the first image that cannot be labelled."""
        return [self._one(image) for image in images]

    def _one(self, image: Image.Image | bytes) -> Labels:
        with _within_memory():
            photograph = self._photograph(image)
            labelled = self._labeller.label(self._labeller.resize(photograph))
        classes: Any = labelled.columns["classes"]
        return Labels(labelled.statistics.mask, labelled.statistics.confidence, classes, photograph.image)

    def _photograph(self, image: Image.Image | bytes) -> Photograph:
        if isinstance(image, Image.Image):
            return photograph_of(image)
        return self._labeller.decode(bytes(image))

    def row(self, data: bytes) -> dict[str, object]:
        """The columns of `masks/` that come from the pixels. Raises `BadImage`."""
        with _within_memory():
            return self._labeller.label(self._labeller.read(data)).columns


@contextmanager
def _within_memory() -> Iterator[None]:
    """Raise `ImageTooLarge` if the memory does not hold an image. A run would try again in an isolated child; here none does."""
    try:
        yield
    except MemoryError as error:
        raise errors.ImageTooLarge("it does not fit into memory") from error


class SegmentBatch:
    """For `ray.data.Dataset.map_batches`: a column of encoded images in, the columns of `masks/` out.

    Other columns stay; the image column is dropped unless `keep_image`. For an image that cannot be labelled, the
    columns are null, and the column `error` holds the reason.

    >>> import io; from PIL import Image
    >>> file = io.BytesIO(); Image.new("RGB", (80, 60)).save(file, "PNG")
    >>> batch = SegmentBatch(short_side=64)({"id": [1, 2], "image": [file.getvalue(), b"?"]})
    >>> batch.column("width").to_pylist(), batch.column("error").to_pylist()
    ([80, None], [None, "CorruptImage: not an image (begins with b'?')"])

    Args:
        weights: as for `Segmenter`; other arguments of `Segmenter` are taken too.
        image_column: name of the image column: binary, or the struct `{bytes, path}`.
        keep_image: keep the image column.
    """

    def __init__(
        self, weights: str = "bundled", *, image_column: str = "image", keep_image: bool = False, **options: Any
    ) -> None:
        self._segmenter = Segmenter(weights, **options)
        self._column, self._keep = image_column, keep_image
        self._schema = pa.schema([field for field in masks_schema() if field.name not in _KEYS])

    def __call__(self, batch: "pa.Table | Mapping[str, Sequence[Any] | npt.NDArray[Any]]") -> pa.Table:
        """A batch as Arrow table or as columns -> an Arrow table with as many rows."""
        table = batch if isinstance(batch, pa.Table) else pa.table({name: pa.array(values) for name, values in batch.items()})
        if self._column not in table.column_names:
            raise errors.UsageError(f"no column {self._column!r}; there are {', '.join(table.column_names)}")
        rows: list[dict[str, object]] = []
        reasons: list[str | None] = []
        for value in table.column(self._column).to_pylist():
            data = value.get("bytes") if isinstance(value, dict) else value
            try:
                if data is None:
                    raise errors.MissingImage("the image is null")
                rows.append(self._segmenter.row(data))
                reasons.append(None)
            except BadImage as error:
                rows.append(dict.fromkeys(self._schema.names))
                reasons.append(f"{error.kind}: {error.message}")
        labelled = pa.Table.from_pylist(rows, schema=self._schema)
        kept = table if self._keep else table.drop_columns([self._column])
        for field in labelled.schema:
            kept = kept.append_column(field, labelled.column(field.name))
        return kept.append_column("error", pa.array(reasons, pa.string()))
