"""Side by side in one run: interleaved rounds, ratios of neighbours, their median and its confidence interval."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

_RESAMPLES = 10_000
_SEED = 20


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios of pairs, and a bootstrapped 95 % interval of that median."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def interleaved(runs: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[dict[str, float]]:
    """What each run measured, round by round.

    Every other round goes through them backwards, so that a machine that slows down favours none of them.
    """
    names = list(runs)
    for number in range(rounds):
        order = names if number % 2 == 0 else names[::-1]
        measured = {name: runs[name]() for name in order}
        yield {name: measured[name] for name in names}


def ratio(rounds: list[dict[str, float]], name: str, base: str) -> Ratio:
    """`name` / `base`, of the figures of one round each."""
    found = [measured[name] / measured[base] for measured in rounds]
    draw = random.Random(_SEED)  # noqa: S311 - resampling, not secrets
    medians = sorted(median(draw.choices(found, k=len(found))) for _ in range(_RESAMPLES))
    return Ratio(median(found), medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)], len(found))
