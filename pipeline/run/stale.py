"""Parts that have to go before a run goes on: of shards that changed, of replaced rows, and what `--redo` names."""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.run.footer import read_footer
from pipeline.run.left import plan_file_digest, planned_sources
from pipeline.run.parts import PartName, list_parts
from pipeline.run.plan import Plan
from pipeline.storage import Store, WritableStore, join


def remove_stale(store: WritableStore, out: str, plan: Plan, redo: str | None = None) -> list[PartName]:
    """Remove the parts that the plan no longer means, and those with failures of the class `redo`; -> their names."""
    committed = list_parts(store, out)
    sources = planned_sources(plan)
    stale = [name for source, names in committed.items() if source not in sources for name in names]
    stale += _with_superseded_rows(store, out, plan, committed)
    if redo is not None:
        for source, names in committed.items():
            stale += [name for name in names if source in sources and _failed_with(store, out, name, redo)]
    for name in stale:
        store.delete(join(out, "masks", str(name)))
        store.delete(join(out, "failures", str(name)))
    return stale


def _with_superseded_rows(store: Store, out: str, plan: Plan, committed: Mapping[str, Sequence[PartName]]) -> Iterator[PartName]:
    """Parts made before a later plan file replaced one of their rows: they hold as many rows as they cover."""
    for file in plan.files:
        rows = plan.superseded.get(file.number, []) if file.images else []
        for name in committed.get(plan_file_digest(file), ()) if rows else ():
            replaced = sum(name.first <= row < name.stop for row in rows)
            if replaced:
                footer = read_footer(store, out, name)
                if footer.masks + len(footer.failures) > footer.rows - replaced:
                    yield name


def _failed_with(store: Store, out: str, name: PartName, error: str) -> bool:
    return any(failure.error == error for failure in read_footer(store, out, name).failures)
