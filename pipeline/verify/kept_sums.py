"""Checks `checkpoint.parquet` against its parts."""

from pipeline.errors import Damaged
from pipeline.output.footer import PartFooter
from pipeline.output.parts import PartName
from pipeline.storage import Store
from pipeline.sums.checkpoint import Checkpoint
from pipeline.sums.totals import Totals
from pipeline.verify.rules import Rules


class KeptSums:
    """The sums of the checkpoint, and the sums of its parts as they are read.

    It is no damage if there is no checkpoint of this run and this format. Runs that have not ended use the checkpoint too. But no
    run uses it if one of its parts is gone or made anew.
    """

    def __init__(self, store: Store, out: str, rules: Rules, parts: int) -> None:
        """parts: how many parts are there. damage: why the checkpoint cannot be read, or ""."""
        self._said: Totals | None = None
        self._parts, self.damage = Totals(rules.classes), ""
        try:
            self._said = Checkpoint(store, out, rules.fingerprint, rules.classes).read(parts)
        except Damaged as damage:
            self.damage = str(damage)

    def add(self, name: PartName, footer: PartFooter) -> None:
        """Add a part that is in order."""
        if self._said is not None and name.key in self._said.parts:
            self._parts.add(name, footer)

    @property
    def lies(self) -> bool:
        """Do its sums differ from those of its parts? To be asked when all parts are added."""
        said = self._said
        return said is not None and len(self._parts.parts) == len(said.parts) and not said.is_same(self._parts)
