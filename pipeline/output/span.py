"""Spans: the work that goes through Ray, a few hundred bytes each, with the secrets that whoever fetches them needs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

from pipeline.output.parts import PartName
from pipeline.plan.plan import read_plan_rows
from pipeline.shards.base import Cursor, SourceObject
from pipeline.storage import without_secrets

OTHERS = 4  # URIs with secrets that go with a span beside its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of one source to label: parts from index `first` up to `stop` (None: to its end).

    source: uri, size and version of the shard, or of the plan file (its name) whose rows are single images.
    ends: the span runs to the end of its source, also where `stop` is known (as it is for single images).
    start: where to begin, or None: `previous` names the committed part that ends there, and its footer says.
    superseded: rows of the plan file that a later plan file replaces.
    max_parts: stop after as many (None: no limit).
    piece_bytes: where to cut it is looked for on its way to the workers, who get pieces of about so many bytes (None: whole).
    secrets: of single images: row of the plan file and the URI to fetch, where that says more than the plan may hold. That of
    a shard stands in its `source`.
    others: of spans with secrets, URIs to fetch a few other planned objects by, to see if their store answers.
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
        """Does it carry secrets?"""
        return self.source.secret is not None or bool(self.secrets)

    def to_json(self) -> str:
        """For the way through Ray."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Span":
        """The other end of the way."""
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
    """by_uri: planned URI -> the URI to fetch. output: where the plan is, which knows the URIs of single images."""

    by_uri: Mapping[str, str]
    output: str

    def given(self, spans: Iterable[Span]) -> Iterator[Span]:
        """The same spans, each with what it needs to fetch. Raises `StorageError` where the plan cannot be read."""
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
            superseded = frozenset(span.superseded)  # may be all of them
            known = tuple((row, uri) for row, uri in mine if uri is not None and row not in superseded)
            yield replace(span, secrets=known, others=others) if known else span


def without_secrets_of(span: Span, text: str) -> str:
    """A message with the URIs as they may be written down."""
    for secret in (span.source.secret, *(uri for _, uri in span.secrets), *span.others):
        if secret is not None:
            text = text.replace(secret, without_secrets(secret))
    return text
