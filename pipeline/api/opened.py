"""`open_run`: a run as its readers see it, local or on S3."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from pipeline.api.photographs import Photographs
from pipeline.errors import Damaged, NotReachable, ObjectMissing, StorageError, UsageError
from pipeline.image.decode import decode
from pipeline.labels.png import decode_mask, decode_png, index_image
from pipeline.labels.statistics import IGNORE, min_confidence_level
from pipeline.output.run_view import RunView
from pipeline.storage import Store, join, normalise, store_for
from pipeline.sums.derived import read_run_json


@dataclass(frozen=True, slots=True)
class Run:
    """A run that may be complete, running or stopped. Only committed parts of planned sources are seen.

    Attributes:
        uri: the place of the run.
        info: the content of `run.json`.
        photographs: reads the photographs that rows name.
        view: plan, parts and footers.
    """

    uri: str
    info: dict[str, Any]
    photographs: Photographs
    view: RunView

    @property
    def masks(self) -> ds.Dataset:
        """One row per labelled image (`pipeline.schema.masks_schema`), in the order of the plan. Lists the parts each time."""
        return self.view.masks()

    @property
    def failures(self) -> ds.Dataset:
        """One row per image that could not be labelled, and why (`pipeline.schema.FAILURES`)."""
        return self.view.failures()

    @property
    def class_stats(self) -> pa.Table:
        """One row per class (`pipeline.schema.CLASS_STATS`)."""
        return pq.read_table(pa.BufferReader(store_for(self.uri).read(join(self.uri, "class_stats.parquet"))))

    def image(self, row: Mapping[str, Any]) -> Image.Image:
        """The photograph of a row of `masks`, upright RGB: by one range read, or from its Parquet row group.

        If rows come in the order of `masks`, each row group is unpacked once. For a row before the last one, its row group is
        unpacked again from the beginning. A photograph is read only if it lies in the run's inputs and has the planned size and
        ETag or mtime (see `open_run`). Raises `OutsideInputs`, `ObjectChanged`, `ObjectMissing` if the photograph is gone, and
        `BadImage` if its bytes are not an image.
        """
        return decode(self.photographs.read(row), max_source_pixels=self.info["shape"]["max_source_pixels"]).image

    def pairs(self, *, min_confidence: float | None = None) -> Iterator[tuple[Image.Image, Image.Image]]:
        """(photograph, mask) of every row: upright RGB, and an index image of the same size in the colours of VOC.

        min_confidence: 0 to 1; pixels whose stored confidence (uint8) is below ceil(255 * min_confidence) become 255.
        Raises `UsageError` if the run stored no confidence, or if its masks have lost pixels that this threshold keeps.
        """
        min_level = None if min_confidence is None else self._min_level(min_confidence)
        return self._pairs(min_level)

    def _pairs(self, min_level: int | None) -> Iterator[tuple[Image.Image, Image.Image]]:
        columns = ["shard", "index", "offset", "length", "mask", *([] if min_level is None else ["confidence"])]
        for batch in self.view.rows(columns):
            for row in batch.to_pylist():
                mask = decode_mask(row["mask"]["bytes"])
                if min_level is not None:
                    kept = decode_png(row["confidence"]["bytes"]) >= min_level
                    mask = index_image(np.where(kept, np.asarray(mask), np.uint8(IGNORE)))
                yield self.image(row), mask

    def _min_level(self, min_confidence: float) -> int:
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"min_confidence {min_confidence}: not between 0 and 1")
        if not self.info["shape"]["confidence_map"]:
            raise UsageError(
                f"{self.uri} stored no confidence: label with --confidence-map, and any threshold can be chosen later"
            )
        made_with, min_level = self.info["labels"]["min_confidence"], min_confidence_level(min_confidence)
        if min_level < min_confidence_level(made_with):  # an older version stored both
            raise UsageError(f"{self.uri} was labelled with --min-confidence {made_with:g}: what is below is lost")
        return min_level


def open_run(uri: str, *, allow_root: str | Sequence[str] = (), check_version: bool = True) -> Run:
    """The run that `segment --output URI` left. Raises `NotReachable` without a run, `Damaged` for half a `run.json`.

    allow_root: photographs are read only below these paths or URIs. Without this argument a photograph is read if the plan has
    it, if an input of `run.json` may have named it, and, on a local disk, if its name is that of an image or shard. So rows that
    somebody slipped into a run lead to no other file. Whoever can write a whole run can also name its inputs.
    check_version: False also reads photographs whose size, ETag or mtime is not the planned one.

    >>> open_run("out/no-such-run")
    Traceback (most recent call last):
    pipeline.errors.NotReachable: no run at ...
    """
    uri = normalise(uri).rstrip("/")
    store: Store = store_for(uri)
    try:
        info = read_run_json(store, uri)
        if info is None and store.stat(join(uri, "run.json")):
            raise Damaged(f"{uri}/run.json is no JSON object: verify --repair makes it again")
    except ObjectMissing as error:
        raise NotReachable(f"no run at {uri} (no run.json)") from error
    except StorageError as error:
        raise NotReachable(str(error)) from error
    assert info is not None
    roots = (allow_root,) if isinstance(allow_root, str) else allow_root
    view = RunView(uri)
    return Run(uri, info, Photographs(view, info, roots, check_version=check_version), view)
