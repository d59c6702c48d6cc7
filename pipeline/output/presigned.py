"""The secrets of presigned inputs, on their way to who fetches them: with the spans that need them, and nowhere else."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.output.span import Span
from pipeline.plan.plan import read_plan_rows
from pipeline.storage import without_secrets

OTHERS = 4  # that go with a span beside its own


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
