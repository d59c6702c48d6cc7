"""Twins: two URIs that differ as given, but look the same as written down. Are these one image or two?"""

from array import array

import numpy as np
import xxhash

from pipeline.errors import UsageError
from pipeline.storage import scheme_of
from pipeline.storage.uris import WEB, parted

_LINES = 40  # the lower bits of a place number the line; the bits above number the input


class Twins:
    """The URLs of the web that lists and inputs name, as hashes: 24 bytes per URL.

    told_apart: queries are written down. Outputs of format 1 have none.
    """

    def __init__(self, *, told_apart: bool) -> None:
        self._told_apart = told_apart
        self._written, self._whole, self._places = array("Q"), array("Q"), array("Q")
        self._doubtful = False

    def add(self, uri: str, source: int, line: int) -> None:
        """Add a URI, as it is fetched, from line `line` of input number `source`. Ignores URIs that are not of the web."""
        if scheme_of(uri) not in WEB:
            return
        written, doubtful = parted(uri)
        whole = _hash(f"{written}\n{doubtful}")
        if not self._told_apart:
            written, _, query = written.partition("?")
            self._doubtful = self._doubtful or bool(query)
        self._doubtful = self._doubtful or bool(doubtful)
        self._written.append(_hash(written))
        self._whole.append(whole)
        self._places.append(source << _LINES | line)

    def refuse(self, names: list[str]) -> None:
        """Raise `UsageError` for the first two that would become one row, but differ in more than signatures.

        names: the inputs, by number.
        """
        if not self._doubtful:
            return
        written = np.frombuffer(self._written, np.uint64)
        order = np.argsort(written, kind="stable")
        written, whole = written[order], np.frombuffer(self._whole, np.uint64)[order]
        differ = np.flatnonzero((written[1:] == written[:-1]) & (whole[1:] != whole[:-1]))
        if not differ.size:
            return
        places = np.frombuffer(self._places, np.uint64)[order]
        at = differ[np.argmin(places[differ + 1])]
        (one, first), (two, second) = (divmod(int(place), 1 << _LINES) for place in (places[at], places[at + 1]))
        where = _where(names, one, first, two, second)
        if self._told_apart:
            raise UsageError(
                f"{where} differ only in what may be a credential, which is not written down: one image or two? Leave one out, "
                "or name each by a URL of its own"
            )
        raise UsageError(
            f"{where} differ only in their query, and the output is of a version that wrote none down: use another --output"
        )


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _where(names: list[str], one: int, first: int, two: int, second: int) -> str:
    if not first and not second:
        return f"--input {names[one]} (number {one + 1}) and {names[two]} (number {two + 1})"
    if one == two:
        return f"--input {names[one]}: lines {first} and {second}"
    return f"--input {names[one]}: line {first}, and {names[two]}: line {second},"
