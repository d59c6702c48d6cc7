"""Flags -> options of readers, labels and network; and a check of the first shard with these options."""

from itertools import islice

from pipeline.config import Budget, Labelling, Labels, Network, Reading
from pipeline.errors import AmbiguousImage, NotReachable, ObjectMissing, StorageError, UsageError
from pipeline.labels.labeller import LabelOptions
from pipeline.model.engine import Prepared
from pipeline.model.prepare import NetworkRequest
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.parquet import image_column, open_parquet
from pipeline.shards.range_file import RangeFile
from pipeline.shards.tar import read_tar
from pipeline.storage import ObjectInfo, store_for

# A worker reports after so many rows of a part, about every ten seconds at this short side. A report costs the driver 3 ms.
_HEARTBEAT_ROWS: dict[str, int] = {
    "lraspp_mobilenet_v3_large": 128, "lraspp_mobilenet_v3_small": 128, "deeplabv3_mobilenet_v3_large": 32,
    "fcn_mobilenet_v3_large": 32, "deeplabv3_resnet50": 8, "fcn_resnet50": 8,
}  # fmt: skip
_SHORT_SIDE = 520
_TIMEOUTS = 3  # the idle time is at least so many image timeouts: decoding, labelling, and once more in an isolated child
_HEAD_IMAGES = 16  # images of the first shard that are checked before anything starts


def read_options(config: Reading) -> ReadOptions:
    """The flags for readers of shards."""
    return ReadOptions(
        image_ext=config.image_ext, image_column=config.image_column, id_column=config.id_column,
        max_encoded_bytes=config.max_encoded_bytes,
    )  # fmt: skip


def label_options(config: Labelling, network: Prepared) -> LabelOptions:
    """The flags that decide labels."""
    return LabelOptions(
        classes=network.classes, preset=network.preset, min_confidence=config.min_confidence, max_pixels=config.max_pixels,
        max_source_pixels=config.max_source_pixels, confidence_map=config.confidence_map, fast_decode=config.fast_decode,
    )  # fmt: skip


def network_request(config: Network) -> NetworkRequest:
    """The flags that decide the network."""
    return NetworkRequest(
        model=config.model, weights=config.weights, engine=config.engine, precision=config.precision, classes=config.classes,
        short_side=config.short_side,
    )  # fmt: skip


def heartbeat_rows(network: Prepared) -> int:
    """After how many rows of an unfinished part workers report; fewer if the network reads more pixels.

    All workers have the same number, because the driver tells reports apart by their position.
    """
    pixels = max(1.0, network.preset.short_side / _SHORT_SIDE) ** 2
    return max(1, int(_HEARTBEAT_ROWS[network.model] / pixels))


def idle_minutes(config: Budget) -> float:
    """How long the driver waits for a report, in minutes: `--idle-minutes`, but not less than a few images may take."""
    return max(config.idle_minutes, _TIMEOUTS * config.image_timeout_s / 60)


def check_new_output(config: Labels) -> None:
    """Raise `UsageError` for flags with which no output may be begun. An output that an older version began so may go on."""
    if config.confidence_map and config.min_confidence > 0:
        raise UsageError(
            "--confidence-map and --min-confidence exclude each other: --min-confidence makes final masks; --confidence-map "
            "keeps every label, and whoever reads them chooses a threshold, and a lower one later"
        )


def check_head(entry: SourceObject, read: ReadOptions) -> None:
    """Check the head of the first shard, so that a wrong flag costs only seconds. Raises `UsageError`, `NotReachable`."""
    if entry.kind != "image" and entry.size is None:
        return  # it was gone or closed when it was listed
    store = store_for(entry.fetch_uri)
    try:
        if entry.kind == "tar":
            for image in islice(read_tar(store, entry, Cursor(), read), _HEAD_IMAGES):
                if isinstance(image.error, AmbiguousImage):
                    raise UsageError(f"{entry.uri}: {image.image_id}: {image.error}")
        elif entry.kind == "parquet":
            info = ObjectInfo(entry.fetch_uri, entry.size, entry.version)
            with RangeFile(store, info, ahead=False) as file:
                schema = open_parquet(file).schema_arrow
            image_column(schema, read.image_column)
            if read.id_column is not None and read.id_column not in schema.names:
                raise UsageError(f"{entry.uri}: no column {read.id_column!r} (--id-column); there are {', '.join(schema.names)}")
    except ObjectMissing:
        return  # gone since it was listed: a truncated shard, later
    except StorageError as error:
        raise NotReachable(str(error)) from error
    except (OSError, ValueError):
        return  # no Parquet footer: a truncated shard, later
