"""`run.json`, which several attempts may write at once: a run that is complete is not called running or incomplete again."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ObjectMissing
from pipeline.plan.fingerprint import require_known_format
from pipeline.storage import WritableStore, join

_TRIES = 10  # before each of them another attempt may have written the file


class RunJson:
    """Reads and writes the `run.json` of an output for one attempt.

    The state `complete` says that all parts of so many plan files are there. An attempt may replace this state in two cases:
    the attempt read the state, then listed the parts and found some missing; or the plan of the attempt has more files.
    """

    def __init__(self, store: WritableStore, out: str, attempt: str) -> None:
        self._store, self._uri, self._attempt = store, join(out, "run.json"), attempt
        self._there: bytes | None = None  # the file, as this attempt read or wrote it last
        self._judged: bytes | None = None  # the file before this attempt listed the parts
        self._written = False

    @property
    def is_ours(self) -> bool:
        """Has this attempt written the file?"""
        return self._written

    def look(self) -> None:
        """Read the file, right before the parts are listed. Raises `NewerFormat`."""
        self._there = self._judged = self._read()
        require_known_format(self.said, "run.json")

    def write(self, values: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any] | None:
        """Write `values`, with this attempt (`mine`) as the last in `attempts` -> all that was written.

        None, and nothing is written, if the file must stay as another attempt wrote it, or if other attempts write all the
        time. values: with `state` and `plan_files`.
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
        covered = said.get("plan_files", 0)  # older versions did not write this key
        return isinstance(covered, int) and covered >= plan_files

    def _read(self) -> bytes | None:
        try:
            return self._store.read(self._uri)
        except ObjectMissing:
            return None

    @property
    def said(self) -> dict[str, Any]:
        """What the file says, as this attempt read or wrote it last; an empty object if there is no file."""
        return parsed_run_json(self._there) or {}


def _id(attempt: object) -> object:
    return attempt.get("id") if isinstance(attempt, dict) else None


def parsed_run_json(data: bytes | None) -> dict[str, Any] | None:
    """What a `run.json` says; None if there is no file, or no whole one."""
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def run_json_bytes(values: Mapping[str, Any]) -> bytes:
    """The bytes of `run.json`."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
