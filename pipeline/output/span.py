"""Spans: the work that goes through Ray, a few hundred bytes per span, and the secrets that a worker needs to fetch images."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from pipeline.output.parts import PartName
from pipeline.plan.plan import read_plan_rows
from pipeline.shards.base import Cursor, SourceObject
from pipeline.storage import without_secrets

OTHERS = 4  # URIs with secrets of other objects that go with a span


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of one source to label: parts from index `first` up to `stop` (None: to its end).

    source: uri, size and version of the shard; for single images the name of the plan file.
    ends: for single images, is `stop` the end of the source? A span of a shard runs to the end if `stop` is None.
    start: place in the source to begin at. If None, the footer of `previous` says the place; without `previous` it is the
    beginning of the source.
    previous: the committed part before the span.
    superseded: rows of the plan file that a later plan file replaces.
    max_parts: stop after so many parts (None: no limit).
    piece_bytes: cut the span into pieces of about so many bytes before workers get it (None: do not cut).
    secrets: for single images, rows of the plan file with the URI to fetch, if this URI holds a secret that the plan must not
    hold. The secret of a shard is in `source`.
    others: for spans with secrets, URIs of a few other planned objects, to see if their store answers.
    """

    source: SourceObject
    digest: str
    first: int
    stop: int | None
    ends: bool = False
    start: Cursor | None = None
    previous: PartName | None = None
    superseded: tuple[int, ...] = ()
    max_parts: int | None = None
    piece_bytes: int | None = None
    secrets: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    others: tuple[str, ...] = field(default=(), repr=False)

    @property
    def is_signed(self) -> bool:
        """Does the span carry secrets?"""
        return self.source.secret is not None or bool(self.secrets)

    def to_json(self) -> str:
        """The span as JSON, for the way through Ray."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Span":
        """Read a span that `to_json` wrote."""
        values = json.loads(text)
        values["source"] = SourceObject(**values["source"])
        values["start"] = None if values["start"] is None else Cursor(**values["start"])
        values["previous"] = None if values["previous"] is None else PartName(**values["previous"])
        values["superseded"] = tuple(values["superseded"])
        values["secrets"] = tuple((row, uri) for row, uri in values["secrets"])
        values["others"] = tuple(values["others"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Secrets:
    """URIs that hold secrets. by_uri: planned URI -> URI to fetch. output: the run whose plan names the single images."""

    by_uri: Mapping[str, str]
    output: str

    def given(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Add to each span the secrets that its reader needs. Raises `StorageError` if the plan cannot be read."""
        if not self.by_uri:
            yield from spans
            return
        name, uris = "", list[str]()
        others = tuple(islice(self.by_uri.values(), 0, None, max(1, len(self.by_uri) // OTHERS)))[:OTHERS]
        for span in spans:
            if span.source.kind != "image":
                secret = self.by_uri.get(span.source.uri)
                yield span if secret is None else replace(span, source=replace(span.source, secret=secret), others=others)
                continue
            if span.source.uri != name:
                name = span.source.uri
                uris = [image.uri for _, image in read_plan_rows(self.output, name, 0, None)]
            mine = ((row, self.by_uri.get(uris[row])) for row in range(span.first, span.stop or len(uris)))
            superseded = frozenset(span.superseded)  # may hold every row
            known = tuple((row, uri) for row, uri in mine if uri is not None and row not in superseded)
            yield replace(span, secrets=known, others=others) if known else span


def without_secrets_of(span: Span, text: str) -> str:
    """A message without the secrets in its URIs, as logs may hold it."""
    for secret in (span.source.secret, *(uri for _, uri in span.secrets), *span.others):
        if secret is not None:
            text = text.replace(secret, without_secrets(secret))
    return text
