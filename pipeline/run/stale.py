"""Parts that have to go before a run goes on: of shards that changed, of replaced rows, and what `--redo` names."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.errors import ObjectMissing
from pipeline.run.footer import read_footer
from pipeline.run.left import plan_file_digest, planned_sources, shard_digest
from pipeline.run.parts import PartName, list_parts
from pipeline.run.plan import Plan, catch_up
from pipeline.storage import Store, WritableStore, join


def remove_stale(
    store: WritableStore, out: str, plan: Plan, redo: str | None = None, announce: Callable[[], object] = lambda: None
) -> list[PartName]:
    """Remove the parts that the plan no longer means, and those with failures of the class `redo`; -> their names.

    Parts are listed first, and then the plan is caught up with, so that it names the source of every part of that listing.
    What it does not name is left: only parts of sources that a later row replaces are stale. `announce` is called before the
    first is removed.
    """
    committed = list_parts(store, out)
    stale = list(_stale(store, out, plan, committed, redo))
    if stale and catch_up(store, out, plan):  # the object of an older row may be planned again
        stale = list(_stale(store, out, plan, committed, redo))
    if stale:
        announce()
    for name in stale:
        store.delete(join(out, "masks", str(name)))
        store.delete(join(out, "failures", str(name)))
    return stale


def _stale(
    store: Store, out: str, plan: Plan, committed: Mapping[str, Sequence[PartName]], redo: str | None
) -> Iterator[PartName]:
    sources = planned_sources(plan) if plan.replaced or redo is not None else set()
    for source in dict.fromkeys(map(shard_digest, plan.replaced)):
        yield from committed.get(source, ()) if source not in sources else ()
    superseded = list(_with_superseded_rows(store, out, plan, committed))
    yield from superseded
    if redo is not None:
        names = (name for source, parts in committed.items() if source in sources for name in parts)
        yield from (name for name in names if name not in superseded and _failed_with(store, out, name, redo))


def _with_superseded_rows(store: Store, out: str, plan: Plan, committed: Mapping[str, Sequence[PartName]]) -> Iterator[PartName]:
    """Parts made before a later plan file replaced one of their rows: they hold as many rows as they cover."""
    for file in plan.files:
        rows = plan.superseded.get(file.number, []) if file.images else []
        for name in committed.get(plan_file_digest(file), ()) if rows else ():
            replaced = sum(name.first <= row < name.stop for row in rows)
            if replaced and _holds_more(store, out, name, replaced):
                yield name


def _holds_more(store: Store, out: str, name: PartName, replaced: int) -> bool:
    try:
        footer = read_footer(store, out, name)
    except ObjectMissing:  # another attempt has removed it
        return False
    return footer.masks + len(footer.failures) > footer.rows - replaced


def _failed_with(store: Store, out: str, name: PartName, error: str) -> bool:
    try:
        return any(failure.error == error for failure in read_footer(store, out, name).failures)
    except ObjectMissing:
        return False
