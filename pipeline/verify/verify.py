"""`verify`: prove that a run is whole: planned images = masks + failures, none twice, every byte as it was written.

Three questions are asked, in this order. Do the parts cover the plan? Their names say this. Is each part what its name, its
footer and the plan promise? Its bytes say this. Are the derived files the sums of the parts? This is asked only if the run has
ended.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged, NotReachable, ObjectChanged, ObjectMissing, StorageError
from pipeline.output.footer import PartFooter, failures_bytes
from pipeline.output.parts import PartName
from pipeline.output.remaining import planned_sources
from pipeline.output.run_view import RunView
from pipeline.parallel import in_order
from pipeline.plan.plan import Plan
from pipeline.storage import Store, join, normalise, store_for
from pipeline.sums.checkpoint import NAME as CHECKPOINT
from pipeline.sums.derived import read_run_json
from pipeline.sums.totals import Totals
from pipeline.verify.checks import Planned, check_part, check_plan_file, open_file, same_file, short
from pipeline.verify.findings import Finding, Kind, chain
from pipeline.verify.kept_sums import KeptSums
from pipeline.verify.rules import Rules, require

READERS = 8  # parts in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found. Only parts that are in order are counted."""

    images: int
    masks: int
    failures: int
    parts: int
    findings: tuple[Finding, ...]

    @property
    def state(self) -> Literal["whole", "incomplete", "damaged"]:
        """The state of the run: `damaged` if anything is damaged, else `incomplete` if a part is missing, else `whole`."""
        if any(finding.kind != "missing" for finding in self.findings):
            return "damaged"
        return "incomplete" if self.findings else "whole"

    @property
    def exit_code(self) -> int:
        """The exit code of the job: 0, 5 or 7."""
        return {"whole": 0, "incomplete": 5, "damaged": 7}[self.state]

    @property
    def plan_is_damaged(self) -> bool:
        """Is the plan damaged? Then nothing can be said about the parts."""
        return any(finding.object.startswith("plan/") and finding.kind == "damaged" for finding in self.findings)

    @property
    def advice(self) -> str | None:
        """What to do next, on one line; None if the run is whole."""
        if self.state == "whole":
            return None
        if self.plan_is_damaged:
            return "the plan cannot be made again: restore plan/ from a copy, or label into another --output"
        again = "run the same segment command again (nothing is labelled twice), then verify again"
        if self.state == "incomplete":
            return again
        if any(finding.is_broken_part or finding.kind == "derived" for finding in self.findings):
            return f"--repair removes the damaged parts and makes derived files again; then {again}"
        return "masks/ holds what this maskfleet did not write, named above: move it away, or use the version that wrote it"

    def as_json(self) -> dict[str, Any]:
        """The values for `--json`."""
        return asdict(self) | {"findings": [finding.as_json() for finding in self.findings], "state": self.state}


def verify(out: str, *, deep: bool = False) -> Verification:
    """Read every file of the run at `out`; if `deep`, also decode every mask and count its pixels again.

    Raises `NotReachable` if there is no run, or if the store does not let something be read.
    """
    out = normalise(out).rstrip("/") or "/"
    try:
        return _Verifier(store_for(out), out, deep=deep).run()
    except StorageError as error:
        raise NotReachable(str(error)) from error


class _Verifier:
    def __init__(self, store: Store, out: str, *, deep: bool) -> None:
        self._store, self._out, self._deep = store, out, deep
        self._view = RunView(out)
        self._findings: list[Finding] = []
        self._parts = self._images = self._masks = 0
        self._rules: Rules | None = None

    def run(self) -> Verification:
        plan = self._plan()
        if plan is not None:
            self._run(plan)
        return Verification(
            images=self._images, masks=self._masks, failures=self._images - self._masks, parts=self._parts,
            findings=tuple(self._findings),
        )  # fmt: skip

    def _run(self, plan: Plan) -> None:
        self._rules = Rules.of(plan.settings)
        run = read_run_json(self._store, self._out)
        parts = self._list_parts(plan)
        totals = Totals(self._rules.classes)
        kept = KeptSums(self._store, self._out, self._rules, sum(map(len, parts.values())))
        with_failures: set[str] = set()
        unknown: set[str] = set()  # damaged parts: nobody can say which indices they cover
        derived: list[Finding] = []
        for name, (footer, findings) in in_order(self._planned(parts), self._check, READERS):
            for finding in findings:
                (derived if finding.kind == "derived" else self._findings).append(finding)
            if footer is None:
                unknown.add(str(name))
            else:
                totals.add(name, footer)
                kept.add(name, footer)
                with_failures |= {str(name)} if footer.failures else set()
        self._parts, self._images, self._masks = len(totals.parts), totals.images, totals.masks
        self._check_chains(parts, unknown)
        if kept.lies:
            self._add(CHECKPOINT, "not the sums of its parts", "derived")
        if not self._found("missing") and run is not None and run.get("state") != "complete":
            self._add("run.json", f"the run has not come to its end (state {run.get('state')!r})", "missing")
        if self._found("missing"):  # derived files are only checked if the run has ended
            return
        self._findings += derived
        self._findings += [Finding(CHECKPOINT, kept.damage, "derived")] if kept.damage else []  # until then no run uses it
        for file_name in self._names("failures"):
            if file_name not in with_failures | unknown:
                self._add(f"failures/{file_name}", "no part has these failures", "derived")
        if not self._found("damaged"):  # else the sums lack a part
            self._check_sums(plan, totals, run)

    def _add(self, name: str, problem: str, kind: Kind, version: str = "") -> None:
        self._findings.append(Finding(name, problem, kind, version))

    def _found(self, kind: Kind) -> bool:
        return any(finding.kind == kind for finding in self._findings)

    def _names(self, folder: str) -> list[str]:
        return [name for name, _, _ in self._files(folder)]

    def _files(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """Name, size and version of each file in a folder of OUT."""
        prefix = join(self._out, folder) + "/"
        return ((info.uri.removeprefix(prefix), info.size or 0, info.version or "") for info in self._store.walk(prefix))

    def _read(self, name: str) -> bytes:
        return self._store.read(join(self._out, name))

    def _plan(self) -> Plan | None:
        """The plan; None if it is damaged: then nothing can be said about the parts."""
        names = self._names("plan")
        if not names and not self._names("masks"):
            raise NotReachable(f"{self._out}: no run there (no plan/00000.parquet)")
        wanted = [f"{number:05d}.parquet" for number in range(len(names) or 1)]
        for name in sorted({*names} - {*wanted}):
            self._add(f"plan/{name}", "not the next plan file", "damaged")
        for name in sorted({*wanted} - {*names}):
            self._add(f"plan/{name}", "gone", "damaged")
        fingerprints = set()
        for name in sorted({*wanted} & {*names}):
            try:
                fingerprints.add(check_plan_file(self._read(f"plan/{name}")))
                require(len(fingerprints) == 1, "its settings are not those of the files before it")
            except Damaged as damage:
                self._add(f"plan/{name}", str(damage), "damaged")
        return None if self._findings else self._view.plan

    def _list_parts(self, plan: Plan) -> dict[str, list[PartName]]:
        """The parts of each planned source, in order. Files with wrong names become findings."""
        sources = planned_sources(plan)
        parts: dict[str, list[PartName]] = defaultdict(list)
        for file_name, size, version in self._files("masks"):
            if (name := PartName.parse(file_name, size, version)) is None:
                self._add(f"masks/{file_name}", "not the name of a part", "damaged")
            elif name.source not in sources:
                self._add(f"masks/{name}", "a part of no planned source", "damaged", version)
            else:
                parts[name.source].append(name)
        for names in parts.values():
            names.sort()
        return parts

    def _check_chains(self, parts: Mapping[str, Sequence[PartName]], unknown: Collection[str]) -> None:
        """Add a finding for each gap or overlap in the parts of a source."""
        for source in self._view.sources():
            self._findings += chain(source.uri, parts.get(source.digest, ()), source.rows, unknown)

    def _planned(self, parts: Mapping[str, Sequence[PartName]]) -> Iterator[Planned]:
        """Every part of a planned source. Memory holds the URIs of one plan file at a time."""
        for source in self._view.sources():
            names = parts.get(source.digest, ())
            if source.rows is None or not names:
                yield from (Planned(name, source.identity) for name in names)
                continue
            uris = pq.read_table(pa.BufferReader(self._read(source.uri)), columns=["uri"]).column("uri").combine_chunks()
            for name in names:
                yield Planned(name, source.identity, uris.slice(name.first, name.rows), source.superseded)

    def _check(self, planned: Planned) -> tuple[PartName, tuple[PartFooter | None, list[Finding]]]:
        """Check one part and its file of failures. Runs in a thread."""
        name = f"masks/{planned.name}"
        assert self._rules is not None
        try:
            data = self._store.read(join(self._out, name), version=planned.name.version or None)
            footer = check_part(data, planned, self._rules, deep=self._deep)
        except (ObjectMissing, ObjectChanged):
            return planned.name, (None, [Finding(name, "gone, or made anew, since it was listed", "missing")])
        except Damaged as damage:
            return planned.name, (None, [Finding(name, str(damage), "damaged", planned.name.version)])
        return planned.name, (footer, self._check_failures(planned.name, footer))

    def _check_failures(self, part: PartName, footer: PartFooter) -> list[Finding]:
        if not footer.failures:
            return []
        name = f"failures/{part}"
        try:
            same = same_file(self._read(name), open_file(failures_bytes(footer)).table)
            return [] if same else [Finding(name, "not the failures of its part", "derived")]
        except ObjectMissing:
            return [Finding(name, "gone; its part has failures", "derived")]
        except Damaged as damage:
            return [Finding(name, str(damage), "derived")]

    def _check_sums(self, plan: Plan, totals: Totals, run: Mapping[str, Any] | None) -> None:
        """Check `class_stats.parquet` and `run.json` against the sums over all parts."""
        assert self._rules is not None
        try:
            if not same_file(self._read("class_stats.parquet"), totals.class_stats(self._rules.min_level)):
                self._add("class_stats.parquet", "not the sums of the parts", "derived")
        except ObjectMissing:
            self._add("class_stats.parquet", "gone", "derived")
        except Damaged as damage:
            self._add("class_stats.parquet", str(damage), "derived")
        if run is None:
            self._add("run.json", "gone, or no JSON object", "derived")
            return
        counts = run.get("counts")
        said = {f"counts.{name}": value for name, value in counts.items()} if isinstance(counts, dict) else {}
        said |= {name: value for name, value in run.items() if name != "counts"}
        is_so = {f"counts.{name}": getattr(totals, name) for name in ("images", "masks", "failures", "broken_shards")}
        is_so |= {"labels_digest": totals.labels_digest, "errors": dict(totals.errors), **plan.settings}
        for name, value in is_so.items():
            if said.get(name) != value:
                self._add("run.json", f"{name} is {short(said.get(name))}, the parts say {short(value)}", "derived")
