"""Steady state: rates and CPU time between two moments at which all workers are at work.

A worker stamps the end of every few images. The window opens when the last worker has set its first stamp (all
have started, loaded the network and met the first shapes) and closes when the first worker sets its last (it runs
dry). Of each worker only what lies between its first and its last stamp in the window counts, so nothing is cut in
the middle of an image; the rates of the workers are added up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A worker has finished `images` more images than at its stamp before.

    unix_s: when. cpu_s: CPU seconds of the process since its start. milliseconds: by stage, since its start.
    """

    unix_s: float
    images: int
    cpu_s: float
    milliseconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What all workers did between `start` and `stop` (unix seconds).

    images_per_s: of all workers. wall_ms: of one worker, an image. cpu_ms: CPU of the workers, an image.
    milliseconds: by stage, an image.
    """

    start: float
    stop: float
    images: int
    images_per_s: float
    wall_ms: float
    cpu_ms: float
    milliseconds: dict[str, float]


def steady(stamps: Mapping[int, Sequence[Stamp]]) -> Window | None:
    """The window of these workers' stamps, each in order; None where it holds no two stamps of some worker."""
    if not stamps or not all(stamps.values()):
        return None
    start = max(each[0].unix_s for each in stamps.values())
    stop = min(each[-1].unix_s for each in stamps.values())
    images, rate, wall_s, cpu_s = 0, 0.0, 0.0, 0.0
    spent: dict[str, float] = {}
    for each in stamps.values():
        inside = [stamp for stamp in each if start <= stamp.unix_s <= stop]
        if len(inside) < 2:
            return None
        first, last = inside[0], inside[-1]
        done, seconds = sum(stamp.images for stamp in inside[1:]), last.unix_s - first.unix_s
        images, rate, wall_s = images + done, rate + done / seconds, wall_s + seconds
        cpu_s += last.cpu_s - first.cpu_s
        for stage, total in last.milliseconds.items():
            spent[stage] = spent.get(stage, 0.0) + total - first.milliseconds.get(stage, 0.0)
    return Window(
        start=start, stop=stop, images=images, images_per_s=rate, wall_ms=1000 * wall_s / images, cpu_ms=1000 * cpu_s / images,
        milliseconds={stage: total / images for stage, total in spent.items()},
    )  # fmt: skip
