"""A function that tests map over parts, in workers."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import Damaged, StorageError
from pipeline.output.footer import read_footer
from pipeline.output.parts import PartName
from pipeline.storage.local import LocalStore


@dataclass(frozen=True, slots=True)
class Masks:
    """Tells how many masks a part has. trouble: what happens at the part with first index 0, only once if there is a `marker`."""

    out: str
    trouble: str = ""
    marker: str = ""

    def __call__(self, part: PartName) -> dict[str, Any]:
        """The number of masks of a part, and the process id. Called in a worker."""
        if self.trouble and part.first == 0 and self._is_first():
            self._fail()
        return {"masks": read_footer(LocalStore(), self.out, part).masks, "pid": os.getpid()}

    def _is_first(self) -> bool:
        if not self.marker:
            return True
        try:
            Path(self.marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _fail(self) -> None:
        match self.trouble:
            case "store":
                raise StorageError("503")
            case "damaged":
                raise Damaged("masks/x: no footer")
            case "bug":
                raise LookupError("no such thing")
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
