"""A run as its plan sees it: the planned sources, their parts, the footers and rows of the parts."""

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.errors import NotReachable, ObjectChanged, ObjectMissing
from pipeline.output.footer import PartFooter, read_footer
from pipeline.output.parts import Bools, PartName, PartTable, list_parts
from pipeline.output.remaining import plan_file_digest, planned_sources, shard_digest
from pipeline.output.run_json import parsed_run_json
from pipeline.parallel import in_order
from pipeline.plan.plan import Plan, catch_up, read_plan
from pipeline.schema import FAILURES, masks_schema
from pipeline.storage import Store, arrow_filesystem, join, store_for

FOOTER_READERS = 64


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A shard, or a plan file whose rows are single images.

    digest: the first field in the names of its parts. rows: of a plan file; None for a shard, whose last part says where the
    shard ends. superseded: rows that a later plan file replaces.
    """

    uri: str
    size: int | None
    version: str | None
    digest: str
    rows: int | None = None
    superseded: frozenset[int] = frozenset()

    @property
    def identity(self) -> dict[str, Any]:
        """The value of `source` in the footers of its parts."""
        return {"uri": self.uri, "size": self.size, "version": self.version}


def sources_of(plan: Plan) -> Iterator[PlannedSource]:
    """Every source that counts, in the order of the plan: shards, then plan files of single images."""
    for shard in plan.shards.values():
        yield PlannedSource(shard.uri, shard.size, shard.version, shard_digest(shard))
    for file in (file for file in plan.files if file.images):
        superseded = frozenset(plan.superseded.get(file.number, ()))
        yield PlannedSource(file.name, None, None, plan_file_digest(file), file.rows, superseded)


def list_planned(store: Store, out: str, sources: Container[str]) -> PartTable:
    """The committed parts of these sources, from one listing. No part of any other source counts."""
    listed = list_parts(store, out)
    return listed.only(listed.of(sources))


def read_footers(store: Store, out: str, parts: Iterable[PartName]) -> Iterator[tuple[PartName, PartFooter]]:
    """Parts with their footers, in order: one range read per part, 64 at a time. Raises like `read_footer`."""
    return in_order(parts, lambda part: (part, read_footer(store, out, part)), FOOTER_READERS)


class RunView:
    """What readers of a run look up: verify and repair, `open_run`, and jobs that work on labels.

    The plan is read once; each listing adds the plan files that are new. A plan of a million shards takes 0.7 GB. If there is no
    plan, for example in a copy of only `masks/` and `run.json`, all parts are seen. Thread-safe. A pickled view opens the run
    again when it is unpickled.
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self._plan: Plan | None = None
        self._plan_is_read = False
        self._lock = threading.RLock()  # one thread at a time adds plan files to the plan
        self._known: dict[int, bool] = {}  # `PartName.key` -> is the part obsolete?

    def __reduce__(self) -> tuple[Callable[[str], "RunView"], tuple[str]]:
        return RunView, (self.out,)

    @property
    def store(self) -> Store:
        """The store of the run, looked up in each call: connections belong to one process, and this one may be a fork."""
        return store_for(self.out)

    @property
    def plan(self) -> Plan:
        """The plan of the run. Raises `NotReachable` if there is no plan."""
        if (plan := self.plan_if_any) is None:
            raise NotReachable(f"{self.out}: no run there (no plan/00000.parquet)")
        return plan

    @property
    def plan_if_any(self) -> Plan | None:
        """The plan of the run; None if there is no plan, for example in a copy without `plan/`."""
        with self._lock:
            if not self._plan_is_read:
                self._plan, self._plan_is_read = read_plan(self.store, self.out), True
            return self._plan

    @property
    def settings(self) -> dict[str, Any]:
        """What is fixed for the run: `fingerprint`, `labels`, `shape`, from the plan; without a plan, from `run.json`."""
        if (plan := self.plan_if_any) is not None:
            return plan.settings
        said = None
        with suppress(ObjectMissing):
            said = parsed_run_json(self.store.read(join(self.out, "run.json")))
        return self.plan.settings if said is None else said

    def sources(self) -> Iterator[PlannedSource]:
        """Every source that counts, as `sources_of` yields them."""
        return sources_of(self.plan)

    def listed(self) -> PartTable:
        """The parts of planned sources that lie in `masks/` now; without a plan, all parts."""
        if (plan := self.plan_if_any) is None:
            return list_parts(self.store, self.out)
        with self._lock:
            catch_up(self.store, self.out, plan)
            sources = planned_sources(plan)
        return list_planned(self.store, self.out, sources)

    def parts(self) -> PartTable:
        """The parts that readers see: all but the obsolete parts, whose rows a later plan file replaces."""
        listed = self.listed()
        return listed.only(~self._obsolete(listed))

    def in_order(self, parts: PartTable) -> Iterator[PartName]:
        """Parts in the order of the plan: those of shards, then those of single images; for one source by first index."""
        plan = self.plan_if_any
        for source in parts if plan is None else planned_sources(plan):
            yield from parts.get(source, ())

    def footers(self, parts: PartTable) -> Iterator[tuple[PartName, PartFooter]]:
        """Parts with their footers, in the order of the plan. Raises like `read_footer`."""
        return read_footers(self.store, self.out, self.in_order(parts))

    def masks(self) -> ds.Dataset:
        """Rows of all parts, in the order of the plan (`pipeline.schema.masks_schema`)."""
        schema = masks_schema(confidence_map=bool(self.settings["shape"]["confidence_map"]))
        return self._dataset("masks", [str(part) for part in self.in_order(self.parts())], schema)

    def failures(self) -> ds.Dataset:
        """The failures of all parts: images without labels, and why (`pipeline.schema.FAILURES`)."""
        folder = join(self.out, "failures") + "/"
        there = {info.uri.removeprefix(folder) for info in self.store.walk(folder)}
        parts = (str(part) for part in self.in_order(self.parts())) if there else ()
        return self._dataset("failures", [name for name in parts if name in there], FAILURES)

    def rows(self, columns: Sequence[str] | None = None, *, batch_rows: int = 64) -> Iterator[pa.RecordBatch]:
        """The rows of `masks`, streamed in the order of the plan, in batches of at most `batch_rows`."""
        return iter(self.masks().to_batches(columns=None if columns is None else list(columns), batch_size=batch_rows))

    def _dataset(self, folder: str, names: list[str], schema: pa.Schema) -> ds.Dataset:
        if not names:
            return ds.dataset(schema.empty_table())
        filesystem, path = arrow_filesystem(self.out)
        return ds.dataset([f"{path}/{folder}/{name}" for name in names], schema=schema, format="parquet", filesystem=filesystem)

    def _obsolete(self, listed: PartTable) -> Bools:
        """Which parts hold a row that a later plan file replaces? bool (N,). Parts that were made later leave such rows out."""
        obsolete = np.zeros(listed.part_count, np.bool_)
        plan = self.plan_if_any
        for file in () if plan is None else tuple(plan.files):
            assert plan is not None
            replaced = np.unique(np.array(plan.superseded.get(file.number, ()), np.int64))
            if file.images and replaced.size:
                of_file = listed.of({plan_file_digest(file)})
                parts = list(listed.parts(of_file))
                covered = (
                    np.searchsorted(replaced, [[part.first, part.stop] for part in parts])
                    if parts
                    else np.zeros((0, 2), np.int64)
                )
                asked = zip(parts, (covered[:, 1] - covered[:, 0]).tolist(), strict=True)
                obsolete[of_file] = list(in_order(asked, lambda each: self._holds(*each), FOOTER_READERS))
        return obsolete

    def _holds(self, part: PartName, replaced: int) -> bool:
        """Does a part hold replaced rows? replaced: how many of them its indices cover."""
        if not replaced:
            return False
        if part.key not in self._known:
            try:
                footer = read_footer(self.store, self.out, part)
            except (ObjectMissing, ObjectChanged):  # removed or made anew after the listing
                return True
            self._known[part.key] = footer.masks + len(footer.failures) > part.rows - replaced
        return self._known[part.key]
