"""What the plan fixes for every part, and the error if a part differs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Damaged
from pipeline.labels.statistics import min_confidence_level


@dataclass(frozen=True, slots=True)
class Rules:
    """What the plan fixes for every part.

    min_level: the least confidence (uint8) that a mask keeps. made_with: engine and version of the labels, as footers name them.
    """

    fingerprint: str
    classes: tuple[str, ...]
    min_level: int
    confidence_map: bool
    part_images: int
    made_with: dict[str, str]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Rules":
        """The rules in the settings of plan file 0."""
        labels = settings["labels"]
        min_level = min_confidence_level(labels["min_confidence"])
        shape = settings["shape"]
        made_with = {"engine": str(labels["engine"]), "labels": str(labels["labels_version"])}
        return cls(
            settings["fingerprint"], tuple(labels["classes"]), min_level, shape["confidence_map"], shape["part_images"], made_with
        )  # fmt: skip


def require(holds: object, problem: str) -> None:
    """Raise `Damaged` with `problem` unless the condition `holds`."""
    if not holds:
        raise Damaged(problem)
