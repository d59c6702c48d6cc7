"""maskfleet: label millions of images with a segmentation network on Ray.

From Python: `Segmenter` labels images here and now, `SegmentBatch` does so in anyone's Ray Data pipeline,
`open_run` reads what a run left. `pipeline.errors` holds what they raise.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api.opened import Run, open_run
    from pipeline.api.segmenter import Labels, SegmentBatch, Segmenter

__all__ = ["Labels", "Run", "SegmentBatch", "Segmenter", "open_run"]

_HOME = {
    "Labels": "pipeline.api.segmenter",
    "Segmenter": "pipeline.api.segmenter",
    "SegmentBatch": "pipeline.api.segmenter",
    "Run": "pipeline.api.opened",
    "open_run": "pipeline.api.opened",
}


def __getattr__(name: str) -> object:
    """Import on first use, so that a worker loads only what it needs."""
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
