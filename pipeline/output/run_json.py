"""`run.json` as several attempts write it at once: what one has found whole, no other calls running or incomplete again."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ObjectMissing
from pipeline.plan.fingerprint import require_known_format
from pipeline.storage import WritableStore, join

_TRIES = 10  # in which other attempts may each have written it right before


class RunJson:
    """One attempt's hand on the `run.json` of an output.

    A `complete` says that all parts of so many plan files are there. An attempt that read it, then listed the parts and found
    some missing, knows better. An attempt that listed them before it was written does not, unless its plan has more files.
    """

    def __init__(self, store: WritableStore, out: str, attempt: str) -> None:
        self._store, self._uri, self._attempt = store, join(out, "run.json"), attempt
        self._there: bytes | None = None  # as far as this attempt knows
        self._judged: bytes | None = None  # what was there before this attempt listed the parts
        self._written = False

    @property
    def is_ours(self) -> bool:
        """Has this attempt written it?"""
        return self._written

    def look(self) -> None:
        """Read it, right before the parts are listed. Raises `NewerFormat`."""
        self._there = self._judged = self._read()
        require_known_format(self.said, "run.json")

    def write(self, values: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any] | None:
        """`values`, and this attempt (`mine`) behind the others; None, and nothing is written, if it stays as it is.

        values: with `state` and `plan_files`.
        """
        for _ in range(_TRIES):
            if self._stays(values["plan_files"]):
                return None
            attempts = self.said.get("attempts")
            others = [found for found in attempts if _id(found) != self._attempt] if isinstance(attempts, list) else []
            whole = {**values, "attempts": [*others, mine]}
            data = run_json_bytes(whole)
            if self._store.replace_if(self._uri, data, self._there):
                self._there, self._written = data, True
                return whole
            self._there = self._read()
        return None

    def _stays(self, plan_files: int) -> bool:
        said = self.said
        if said.get("state") != "complete" or self._there == self._judged:
            return False
        covered = said.get("plan_files", 0)  # an older version did not say
        return isinstance(covered, int) and covered >= plan_files

    def _read(self) -> bytes | None:
        try:
            return self._store.read(self._uri)
        except ObjectMissing:
            return None

    @property
    def said(self) -> dict[str, Any]:
        """What it says, as far as this attempt knows; an empty object where it says nothing."""
        return parsed_run_json(self._there) or {}


def _id(attempt: object) -> object:
    return attempt.get("id") if isinstance(attempt, dict) else None


def parsed_run_json(data: bytes | None) -> dict[str, Any] | None:
    """None where there is none, or half of one."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def run_json_bytes(values: Mapping[str, Any]) -> bytes:
    """The file."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
