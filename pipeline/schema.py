"""Arrow schemas of all tables that a run writes. Names of columns are defined only here."""

import json

import pyarrow as pa

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_BBOX = pa.struct([("x", pa.int32()), ("y", pa.int32()), ("width", pa.int32()), ("height", pa.int32())])
CLASS = pa.struct(
    [
        ("class_id", pa.int16()),
        ("name", pa.string()),
        ("pixels", pa.int64()),
        ("fraction", pa.float32()),
        ("mean_confidence", pa.float32()),
        ("bbox", _BBOX),
    ]
)
_MASK_FIELDS = [
    pa.field("image_id", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("index", pa.int64()),
    pa.field("member", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("orientation", pa.int8()),
    pa.field("mask", _IMAGE),
    pa.field("mean_confidence", pa.float32()),
    pa.field("ignored_fraction", pa.float32()),
    pa.field("classes", pa.list_(CLASS)),
]


def masks_schema(*, confidence_map: bool = False) -> pa.Schema:
    """The schema of parts: one row per labelled image. Hugging Face `datasets` decodes `mask` (and `confidence`) by itself."""
    fields = [*_MASK_FIELDS, pa.field("confidence", _IMAGE)] if confidence_map else _MASK_FIELDS
    features = {"mask": {"_type": "Image"}} | ({"confidence": {"_type": "Image"}} if confidence_map else {})
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


FAILURES = pa.schema(
    [
        ("image_id", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("bytes_length", pa.int64()),
    ]
)

CLASS_STATS = pa.schema(
    [
        ("class_id", pa.int16()),
        ("name", pa.string()),
        ("images", pa.int64()),
        ("pixels", pa.int64()),
        ("fraction", pa.float64()),
        ("mean_confidence", pa.float64()),
        ("confidence_histogram", pa.list_(pa.int64(), 256)),
    ]
)

PLAN = pa.schema(
    [
        ("kind", pa.string()),
        ("uri", pa.string()),
        ("image_id", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
    ]
)
