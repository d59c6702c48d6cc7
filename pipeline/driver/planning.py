"""The story of an attempt up to its first round: list, plan, see which parts are there. The dry run uses these steps too."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from pipeline.config import SegmentConfig
from pipeline.errors import NotReachable, StorageError
from pipeline.listing.listing import Listing, list_inputs
from pipeline.model.engine import Prepared
from pipeline.output.parts import PartTable
from pipeline.output.remaining import image_count
from pipeline.plan.fingerprint import check_same, settings
from pipeline.plan.options import check_head, check_new_output, read_options
from pipeline.plan.plan import Plan, extend_plan, read_plan, writes_queries
from pipeline.shards.base import SourceObject
from pipeline.storage import WritableStore
from pipeline.sums.obsolete import remove_obsolete
from pipeline.sums.sums import Sums

Entries = Iterable[SourceObject]


@dataclass(slots=True)
class Hooks:
    """What an attempt or a dry run adds to the steps of `make_plan`.

    phase: is told what happens now. looked: is called when the plan has been read. new_output: is called if the inputs are
    there and there is no plan yet. watch: sees the entries of the listing pass by.
    """

    phase: Callable[[str], None] = lambda _: None
    looked: Callable[[], None] = lambda: None
    new_output: Callable[[], None] = lambda: None
    watch: Callable[[Entries], Iterator[SourceObject]] = iter


def make_plan(
    config: SegmentConfig, store: WritableStore, listing: Listing, network: Callable[[], Prepared], hooks: Hooks
) -> tuple[Plan, Prepared]:
    """List the input, and add new entries to the plan of the output -> the plan and the network.

    network: waits for the network, which another thread prepares. Raises `NotReachable` if inputs or output cannot be reached,
    `UsageError` if the flags do not fit them, and the errors of `extend_plan`. An attempt that is refused adds nothing.
    """
    hooks.phase("listing")
    try:
        plan = read_plan(store, config.output)
        hooks.looked()
    except StorageError as error:
        raise NotReachable(f"--output: {error}") from error
    listing.queries = writes_queries(plan)
    if plan is None:
        check_new_output(config)
    entries = list_inputs(
        config.input, listing, input_format=config.input_format, image_column=config.image_column, output=config.output,
        allow_root=config.allow_root,
    )  # fmt: skip
    head = list(islice(entries, 1))
    if plan is None:
        check_head(replace(head[0], secret=listing.secrets.get(head[0].uri)), read_options(config))
        hooks.new_output()
    hooks.phase("preparing the network")
    prepared = network()
    mine = settings(config, prepared)
    if plan is not None:
        check_same(plan.settings, mine, config.output)
    hooks.phase("planning")
    try:
        plan = extend_plan(
            store, config.output, plan, hooks.watch(chain(head, entries)), mine, relabel_changed=config.relabel_changed
        )
    except StorageError as error:
        raise NotReachable(f"--output: {error}") from error
    check_same(plan.settings, mine, config.output)  # another attempt may have written the plan
    return plan, prepared


@dataclass(slots=True)
class Begun:
    """A run whose plan is made. committed: the parts at the last listing, without those that were removed."""

    plan: Plan
    network: Prepared
    sums: Sums
    committed: PartTable = field(default_factory=PartTable.empty)

    @classmethod
    def of(cls, config: SegmentConfig, store: WritableStore, plan: Plan, network: Prepared) -> "Begun":
        """A run with empty sums."""
        return cls(plan, network, Sums(store, config.output, plan.settings["fingerprint"], network.classes))

    def look(self, config: SegmentConfig, store: WritableStore, announce: Callable[[], object] = lambda: None) -> int:
        """List the parts; remove those that are obsolete, or that `--redo` names -> the number of images that stay.

        announce: is called before the first part is removed.
        """
        self.committed = remove_obsolete(
            store, config.output, self.plan, self.sums.begin(), self.sums, config.redo, announce=announce
        )
        return image_count(self.plan, self.committed)
