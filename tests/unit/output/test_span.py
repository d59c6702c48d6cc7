"""Spans and reports survive their way through Ray."""

from dataclasses import replace

import pytest

from pipeline.output.parts import PartName
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, SourceObject

TAR = SourceObject(uri="s3://bucket/a.tar", kind="tar", size=10, version="etag:1")
FILE = SourceObject(uri="plan/00001.parquet", kind="image", size=None, version=None)


@pytest.mark.parametrize(
    "span",
    [
        Span(source=TAR, digest="d", first=0, stop=None),
        Span(source=TAR, digest="d", first=4, stop=8, start=Cursor(4, 2048, "b.jpg")),
        Span(source=TAR, digest="d", first=4, stop=0, previous=PartName("d" * 24, 0, 4, False, 256, 9), max_parts=1),
        Span(source=replace(TAR, secret="s3://bucket/a.tar?sig=1"), digest="d", first=0, stop=None, piece_bytes=7),
        Span(source=FILE, digest="e", first=0, stop=9, secrets=((1, "https://h/a?sig=1"), (3, "https://h/b?sig=2"))),
        Span(source=FILE, digest="e", first=0, stop=9, ends=True, start=Cursor(0), superseded=(3, 5)),
    ],
)
def test_a_span_is_the_same_at_the_other_end(span: Span) -> None:
    assert Span.from_json(span.to_json()) == span
    assert hash(Span.from_json(span.to_json())) == hash(span)
    assert "sig=" not in repr(span)
