"""For notebooks, and for other people's pipelines: `Segmenter`, `SegmentBatch`, `open_run`.

Nothing in the other rooms imports it.
"""
