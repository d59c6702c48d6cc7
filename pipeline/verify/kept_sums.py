"""`checkpoint.parquet` against the parts that it says it is of."""

from pipeline.errors import Damaged
from pipeline.output.footer import PartFooter
from pipeline.output.parts import PartName
from pipeline.storage import Store
from pipeline.sums.checkpoint import Checkpoint
from pipeline.sums.totals import Totals
from pipeline.verify.rules import Rules


class KeptSums:
    """Its sums, and those of its parts as they are read. Nothing is wrong if there is none of this run and this format.

    It is used as it is by runs that have not ended, too; but if any of its parts is gone or made anew, it is used by nobody.
    """

    def __init__(self, store: Store, out: str, rules: Rules, parts: int) -> None:
        """parts: that there are. damage: why it cannot be read."""
        self._said: Totals | None = None
        self._parts, self.damage = Totals(rules.classes), ""
        try:
            self._said = Checkpoint(store, out, rules.fingerprint, rules.classes).read(parts)
        except Damaged as damage:
            self.damage = str(damage)

    def add(self, name: PartName, footer: PartFooter) -> None:
        """A part that is in order."""
        if self._said is not None and name.key in self._said.parts:
            self._parts.add(name, footer)

    @property
    def lies(self) -> bool:
        """Does it say other sums than its parts, once all parts are added?"""
        said = self._said
        return said is not None and len(self._parts.parts) == len(said.parts) and not said.is_same(self._parts)
