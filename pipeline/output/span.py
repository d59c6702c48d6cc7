"""Spans: the work that goes through Ray, a few hundred bytes each, and the reports that come back."""

import json
from dataclasses import asdict, dataclass, field

from pipeline.output.parts import PartName
from pipeline.shards.base import Cursor, SourceObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of one source to label: parts from index `first` up to `stop` (None: to its end).

    source: uri, size and version of the shard, or of the plan file (its name) whose rows are single images.
    ends: the span runs to the end of its source, also where `stop` is known (as it is for single images).
    start: where to begin, or None: `after` names the committed part that ends there, and its footer says.
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
    after: PartName | None = None
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
        values["after"] = None if values["after"] is None else PartName(**values["after"])
        values["superseded"] = tuple(values["superseded"])
        values["secrets"] = tuple((row, uri) for row, uri in values["secrets"])
        values["others"] = tuple(values["others"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What a worker reports of one part, of a part that it has in hand, or (`error`) of a span that it had to leave.

    size: bytes of the part's file, if this worker made the part; version: of the object, as listings name it.
    in_hand: rows of the part in hand that are done: a sign that it gets on, and nothing else is said.
    inferred: images that went through the network for it, whether or not the commit was won.
    committed: this worker wrote it; else it was there. seconds: from its first image to the commit.
    milliseconds: by stage, summed over the images. retries: of requests to stores since the report before, by what went wrong.
    refused: the worker cannot start at all, and neither can any other that this round has.
    footer: the part's footer as JSON where this worker made the part.
    """

    part: str | None = None
    size: int = 0
    version: str = ""
    in_hand: int = 0
    rows: int = 0
    failures: int = 0
    bytes: int = 0
    inferred: int = 0
    committed: bool = False
    seconds: float = 0.0
    error: str | None = None
    error_class: str | None = None
    refused: bool = False
    footer: str | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the way through Ray."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "PartReport":
        """The other end of the way."""
        return cls(**json.loads(text))
