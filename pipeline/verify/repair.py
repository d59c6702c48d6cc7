"""`verify --repair`: removes broken parts, which the next run makes again, and makes the derived files again."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipeline.errors import Damaged, NotReachable, ObjectMissing, StorageError
from pipeline.output.footer import PartFooter, failures_bytes
from pipeline.output.parts import PartName, is_part_name
from pipeline.output.remaining import has_remaining
from pipeline.output.run_view import RunView
from pipeline.plan.plan import Plan
from pipeline.storage import WritableStore, join, normalise, writable_store_for
from pipeline.sums.checkpoint import NAME as CHECKPOINT
from pipeline.sums.checkpoint import Checkpoint
from pipeline.sums.derived import class_stats_bytes, read_run_json, read_totals, write_run_json
from pipeline.sums.totals import Totals
from pipeline.verify.checks import open_file, same_file
from pipeline.verify.findings import Finding
from pipeline.verify.rules import Rules
from pipeline.verify.verify import Verification, verify


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did.

    removed: parts, and why. made: derived files that were written again, or removed because no part has them. now: what
    `verify` found after the repair.
    """

    removed: tuple[Finding, ...]
    made: tuple[str, ...]
    now: Verification


def repair(out: str, *, deep: bool = False) -> Repair:
    """Verify the run at `out`, remove exactly the parts that are broken, and make the derived files again.

    Nothing is removed before all files are read, and nothing if the plan is damaged. Files in `masks/` whose names are not those
    of parts are left, and stay damage. The next `segment` makes missing parts.
    Raises like `verify`, and `UsageError` if maskfleet does not write to stores like that of `out`.
    """
    out = normalise(out).rstrip("/") or "/"
    store = writable_store_for(out)
    before = verify(out, deep=deep)
    if before.state == "whole" or before.plan_is_damaged:
        return Repair((), (), before)
    try:
        removed = tuple(finding for finding in before.findings if finding.is_broken_part and _is_there(store, out, finding))
        for name in dict.fromkeys(finding.object for finding in removed):
            store.delete(join(out, name))
        made = tuple(_make_derived(store, out, RunView(out)))
    except StorageError as error:
        raise NotReachable(str(error)) from error
    return Repair(removed, made, verify(out, deep=deep))


def _is_there(store: WritableStore, out: str, finding: Finding) -> bool:
    """Is the object still the one that was verified, perhaps hours ago? Another run may have made it anew since."""
    with suppress(ObjectMissing):
        return store.stat(join(out, finding.object)).version == finding.version
    return False


def _make_derived(store: WritableStore, out: str, run: RunView) -> Iterator[str]:
    """Make derived files agree with the parts -> names of the files that changed.

    These are the checkpoint, `failures/` and `run.json`, and if no part is missing `class_stats.parquet`. Nothing is changed if
    a part cannot be read.
    """
    plan, failing = run.plan, dict[str, bytes]()
    rules = Rules.of(plan.settings)
    there = set(store.names(join(out, "failures") + "/"))  # listed before the parts: a part is written before its failures
    committed = run.listed()
    totals = Totals(rules.classes)

    def keep(name: PartName, footer: PartFooter) -> None:
        if footer.failures:
            failing[str(name)] = failures_bytes(footer)

    with suppress(Damaged):  # a part was damaged after `verify` read it: no sum is whole
        read_totals(store, out, committed, totals, rules.fingerprint, keep)
    if not totals.is_exactly(committed.part_keys):
        return
    if _replaces_checkpoint(store, out, rules, totals):
        yield CHECKPOINT
    yield from _make_failures(store, out, there, failing)
    remains = has_remaining(plan, committed)
    if not remains:
        table = totals.class_stats(rules.min_level)
        if not _holds(store, join(out, "class_stats.parquet"), table):
            store.replace(join(out, "class_stats.parquet"), class_stats_bytes(table))
            yield "class_stats.parquet"
    said = read_run_json(store, out)
    if said is None or not remains or said.get("state") == "complete":
        values = _run_json(said or {}, plan, totals, "incomplete" if remains else "complete")
        if values != said:
            write_run_json(store, out, values | {"updated": datetime.now(UTC).isoformat(timespec="seconds")})
            yield "run.json"


def _replaces_checkpoint(store: WritableStore, out: str, rules: Rules, totals: Totals) -> bool:
    """Replace a checkpoint of this run that is damaged, or whose sums are not these -> whether it was replaced.

    No checkpoint stays that holds a part which was removed.
    """
    checkpoint = Checkpoint(store, out, rules.fingerprint, rules.classes)
    with suppress(Damaged):
        kept = checkpoint.read(2 * len(totals.parts) + 1000)
        if kept is None or kept.is_same(totals):
            return False
    return checkpoint.save(store, totals, smaller=True)


def _make_failures(store: WritableStore, out: str, there: set[str], failing: dict[str, bytes]) -> Iterator[str]:
    for name in sorted(there - failing.keys()):
        if is_part_name(name):
            store.delete(join(out, "failures", name))
            yield f"failures/{name}"
    for name, data in sorted(failing.items()):
        uri = join(out, "failures", name)
        if not _holds(store, uri, open_file(data).table):
            store.replace(uri, data)
            yield f"failures/{name}"


def _holds(store: WritableStore, uri: str, table: pa.Table) -> bool:
    try:
        return same_file(store.read(uri), table)
    except (ObjectMissing, Damaged):
        return False


def _run_json(said: dict[str, Any], plan: Plan, totals: Totals, state: str) -> dict[str, Any]:
    """The content of `run.json`, with all values corrected that the plan and the parts know. They do not know the attempts."""
    counts = said.get("counts")
    mine = {name: getattr(totals, name) for name in ("images", "masks", "failures", "broken_shards")}
    kept = {name: counts.get(name, 0) if isinstance(counts, dict) else 0 for name in ("inferred", "skipped")}
    return {
        **(said or {"maskfleet": version("maskfleet")}), "state": state, "counts": mine | kept,
        "labels_digest": totals.labels_digest, "errors": dict(totals.errors.most_common()), **plan.settings,
    }  # fmt: skip
