"""Rows that count how often they are compared: on a busy machine a count is reliable, a time is not."""

from collections import Counter

compared: Counter[str] = Counter()


class CountedRow(int):
    """An int; each comparison with it counts in `compared["rows"]`."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        compared["rows"] += 1
        return int.__eq__(self, int(other)) if isinstance(other, int) else False

    def __lt__(self, other: int) -> bool:
        compared["rows"] += 1
        return int.__lt__(self, other)

    def __le__(self, other: int) -> bool:
        compared["rows"] += 1
        return int.__le__(self, other)

    def __gt__(self, other: int) -> bool:
        compared["rows"] += 1
        return int.__gt__(self, other)

    def __ge__(self, other: int) -> bool:
        compared["rows"] += 1
        return int.__ge__(self, other)
