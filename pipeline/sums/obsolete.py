"""Removes parts before a run goes on: obsolete parts (changed shards, replaced rows), and parts that `--redo` names."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from pipeline.errors import ObjectChanged, ObjectMissing
from pipeline.output.footer import PartFooter, read_footer
from pipeline.output.parts import Bools, PartName, PartTable
from pipeline.output.remaining import plan_file_digest, planned_sources, shard_digest
from pipeline.output.run_view import FOOTER_READERS
from pipeline.parallel import in_order
from pipeline.plan.plan import Plan, catch_up
from pipeline.storage import Store, WritableStore, join
from pipeline.sums.derived import settle_failures
from pipeline.sums.sums import Sums


def remove_obsolete(
    store: WritableStore,
    out: str,
    plan: Plan,
    listed: PartTable,
    sums: Sums,
    redo: str | None = None,
    announce: Callable[[], object] = lambda: None,
) -> PartTable:
    """Remove obsolete parts, and parts with failures of the class `redo` -> the other parts of planned sources.

    The plan first takes in new plan files: it must name the source of every part of `listed`, which was listed before. Parts
    of sources that no plan row ever named are left: a part is obsolete only if a later row replaces its source or its rows.
    sums: lose the parts that are removed, and the parts of unplanned sources. announce: is called before the first removal.
    """
    catch_up(store, out, plan)  # a newer row may plan the object of an older row again
    planned = listed.of(planned_sources(plan))
    obsolete = (listed.of(set(map(shard_digest, plan.replaced))) & ~planned) | _with_superseded_rows(
        store, out, plan, listed, sums
    )
    if redo is not None:
        may_be = planned & ~obsolete
        obsolete[may_be] = _failed_with(store, out, listed.only(may_be), sums, redo)
    sums.forget(listed.only(obsolete | ~planned))
    if obsolete.any():
        announce()
        for _ in in_order(listed.parts(obsolete), lambda name: _remove(store, out, name), FOOTER_READERS):
            pass
    return listed.only(planned & ~obsolete)


def _remove(store: WritableStore, out: str, name: PartName) -> None:
    """Remove a part and its failures, unless another attempt has removed the part or made it anew after the listing."""
    part = join(out, "masks", str(name))
    with suppress(ObjectMissing):
        if store.stat(part).version == name.version:
            store.delete(join(out, "failures", str(name)))  # first: nobody removes the failures of a part that is gone
            store.delete(part)
            settle_failures(store, out, name, None)  # an attempt that read the footer may have written them again


def _with_superseded_rows(store: Store, out: str, plan: Plan, listed: PartTable, sums: Sums) -> Bools:
    """Which parts hold a row that a later plan file replaces? bool (N,). Parts that were made later leave such rows out."""
    obsolete = np.zeros(listed.part_count, np.bool_)
    for file in plan.files:
        rows = np.sort(np.array(plan.superseded.get(file.number, []) if file.images else [], np.int64))
        if rows.size:
            of_file = listed.of({plan_file_digest(file)})
            found = zip(listed.parts(of_file), sums.totals.counts_of(listed.part_keys[of_file]).sum(axis=1).tolist(), strict=True)
            wanted = ((name, images, int(np.diff(np.searchsorted(rows, [name.first, name.stop]))[0])) for name, images in found)
            obsolete[of_file] = list(in_order(wanted, lambda part: _is_obsolete(store, out, *part), FOOTER_READERS))
    return obsolete


def _is_obsolete(store: Store, out: str, name: PartName, images: int, replaced: int) -> bool:
    """Does a part hold replaced rows? images: rows that it holds; negative: read its footer. replaced: rows that it covers."""
    if replaced and images < 0:
        footer = _footer(store, out, name)
        images = 0 if footer is None else footer.masks + len(footer.failures)
    return bool(replaced) and images > name.rows - replaced


def _failed_with(store: Store, out: str, listed: PartTable, sums: Sums, error: str) -> Bools:
    """Which of these parts have a failure of this class? bool (N,). Reads footers of parts with failures or not in the sums."""

    def failed(name: PartName) -> bool:
        footer = _footer(store, out, name)
        return footer is not None and any(failure.error == error for failure in footer.failures)

    with suppress(ObjectMissing, ObjectChanged):
        sums.read(listed)
    failures = sums.totals.counts_of(listed.part_keys)[:, 1]
    asked = (failures < 0) | ((failures > 0) & (error in sums.totals.errors))
    found = np.zeros(listed.part_count, np.bool_)
    found[asked] = list(in_order(listed.parts(asked), failed, FOOTER_READERS))
    return found


def _footer(store: Store, out: str, name: PartName) -> PartFooter | None:
    """The footer of a part; None if another attempt has removed the part or made it anew."""
    try:
        return read_footer(store, out, name)
    except (ObjectMissing, ObjectChanged):
        return None
