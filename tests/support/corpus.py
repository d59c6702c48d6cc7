"""All nasty inputs of the tests in one module: images, tars and Parquet files as bytes."""

from __future__ import annotations

from tests.support.images import Case, images, jpeg
from tests.support.parquets import (
    Layout,
    ParquetCase,
    damaged_page_header,
    damaged_pages,
    parquet_bytes,
    parquets,
    without_footer,
)
from tests.support.tars import (
    Entry,
    Span,
    TarCase,
    cut_in_body,
    cut_in_header,
    photos,
    spans,
    tar_bytes,
    tar_of,
    tars,
    zeroed_header,
    zeroed_region,
)

__all__ = [
    "Case",
    "Entry",
    "Layout",
    "ParquetCase",
    "Span",
    "TarCase",
    "cut_in_body",
    "cut_in_header",
    "damaged_page_header",
    "damaged_pages",
    "images",
    "jpeg",
    "parquet_bytes",
    "parquets",
    "photos",
    "spans",
    "tar_bytes",
    "tar_of",
    "tars",
    "without_footer",
    "zeroed_header",
    "zeroed_region",
]
