"""Reads the results of a contender: masks by image id, and the times at which workers finished batches."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import Bug
from pipeline.labels.png import decode_png
from tests.benchmarks.recipes import Task, image_id
from tests.benchmarks.runs import Stamp

Stamps = dict[str, list[Stamp]]
Masks = dict[str, npt.NDArray[np.uint8]]


def read_masks(name: str, out: Path, wanted: Iterable[str]) -> Masks:
    """Masks by image id, from PNG files, from Parquet, or from a run. Raises `Bug` unless each image is there once."""
    encoded = [(path.stem, path.read_bytes()) for path in sorted(out.glob("*.png"))]
    for file in sorted((out / "masks" if (out / "masks").is_dir() else out).glob("*.parquet")):
        table = pq.read_table(file)
        ids = table.column("image_id" if "image_id" in table.column_names else "path").to_pylist()
        masks = table.column("mask") if "mask" in table.column_names else pc.struct_field(table.column("row"), "mask")
        for key, mask in zip(ids, masks.to_pylist(), strict=True):
            encoded.append((image_id(key), mask["bytes"] if isinstance(mask, dict) else mask))
    expected = sorted(wanted)
    if sorted(key for key, _ in encoded) != expected:
        raise Bug(f"{name}: {len(encoded)} masks of {len({key for key, _ in encoded})} of {len(expected)} images")
    return {key: decode_png(data) for key, data in encoded}


def compare(name: str, found: Masks, expected: Masks, least: float) -> None:
    """Raise `Bug` if less than the fraction `least` of all pixels is equal, over the images of `expected`."""
    equal = pixels = 0
    for key, mask in expected.items():
        if found[key].shape != mask.shape:
            raise Bug(f"{name}: the mask of {key} is {found[key].shape}, not {mask.shape}")
        equal, pixels = equal + int((found[key] == mask).sum()), pixels + mask.size
    if equal < least * pixels:
        raise Bug(f"{name}: {100 * equal / pixels:.4f} % of the pixels are as they should be, not {100 * least:g} %")


def events_of(task: Task) -> Stamps:
    """The batches that each worker of a task finished, and when, in order."""
    path, found = Path(task.events), defaultdict[str, list[Stamp]](list)
    for line in sorted(path.read_text(encoding="utf-8").splitlines()) if path.exists() else []:
        at, worker, images = line.split()
        found[worker].append(Stamp(unix_s=float(at), images=int(images)))
    return dict(found)


def rough_rate(events: Stamps) -> float:
    """Images/s of all workers from the first finished batch to the last; 0 if there was only one batch."""
    own = sorted((stamp for stamps in events.values() for stamp in stamps), key=lambda stamp: stamp.unix_s)
    if len(own) < 2 or own[-1].unix_s <= own[0].unix_s:
        return 0.0
    return sum(stamp.images for stamp in own[1:]) / (own[-1].unix_s - own[0].unix_s)
