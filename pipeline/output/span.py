"""Spans: the work that goes through Ray, a few hundred bytes each, and the reports that come back."""

import json
from dataclasses import asdict, dataclass, field

from pipeline.output.footer import PartFooter
from pipeline.output.parts import PartName
from pipeline.shards.base import Cursor, SourceObject


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What a worker reports of one part, of a part that it has in hand, or (`error`) of a span that it had to leave.

    part: with the size and the version of its file, as listings name them.
    in_hand: rows of the part in hand that are done: a sign that the worker gets on, and nothing else is said.
    inferred: images that went through the network for the part, whether or not the commit was won.
    committed: this worker wrote the part; else it was there. footer: of a part that this worker wrote.
    bytes: of the encoded images. seconds: from the first image to the commit.
    milliseconds: by stage, summed over the images. retries: of requests to stores since the report before, by what went wrong.
    refused: the worker cannot start at all, and neither can any other that this round has.
    """

    part: PartName | None = None
    in_hand: int = 0
    bytes: int = 0
    inferred: int = 0
    committed: bool = False
    footer: PartFooter | None = None
    seconds: float = 0.0
    error: str | None = None
    error_class: str | None = None
    refused: bool = False
    milliseconds: dict[str, float] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the part."""
        return 0 if self.part is None else self.part.rows

    def to_json(self) -> str:
        """For the way through Ray."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["part"] = None if self.part is None else asdict(self.part)
        values["footer"] = None if self.footer is None else self.footer.to_dict()
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "PartReport":
        """The other end of the way."""
        values = json.loads(text)
        values["part"] = None if values["part"] is None else PartName(**values["part"])
        values["footer"] = None if values["footer"] is None else PartFooter.from_dict(values["footer"])
        return cls(**values)
