"""What `verify` finds, and the parts of a source as a chain."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.output.parts import PartName, is_part_name

Kind = Literal["missing", "damaged", "derived"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one object.

    object: a file, relative to OUT; or, if `missing`, the planned shard or plan file that lacks parts. version: of a part, as
    it was listed.
    """

    object: str
    problem: str
    kind: Kind
    version: str = field(default="", compare=False)

    @property
    def is_broken_part(self) -> bool:
        """May `--repair` remove the object? Only a damaged file in `masks/` that has the name of a part."""
        return self.kind == "damaged" and self.object.startswith("masks/") and is_part_name(self.object.removeprefix("masks/"))

    def as_json(self) -> dict[str, str]:
        """The values for `--json`."""
        return {"object": self.object, "problem": self.problem, "kind": self.kind}


def chain(source: str, parts: Sequence[PartName], rows: int | None, unknown: Collection[str]) -> Iterator[Finding]:
    """Gaps and overlaps of the parts of one source. rows: of the source; None: its last part says where it ends.

    unknown: names of damaged parts, which have findings already. Such a part counts as covering all indices up to the next part.
    """
    expected, previous = 0, None
    for part in parts:
        damaged = str(part) in unknown
        if previous is not None and str(previous) in unknown:
            expected = part.first
        elif previous is not None and (part.first < expected or previous.last) and not damaged:
            problem = f"covers indices that masks/{previous} covers, or lies behind its end"
            yield Finding(f"masks/{part}", problem, "damaged", part.version)
            continue
        if part.first > expected:
            yield Finding(source, f"no part has indices {expected} to {part.first - 1}", "missing")
        if rows is not None and not damaged and (part.stop > rows or part.last != (part.stop == rows)):
            problem = f"ends at {part.stop}, its plan file at {rows}: one of the two lies"
            yield Finding(f"masks/{part}", problem, "damaged", part.version)
        expected, previous = part.stop, part
    if previous is None or not (previous.last or str(previous) in unknown):
        yield Finding(source, f"no part has index {expected} and what follows", "missing")
