"""For notebooks, and for other people's pipelines: `Segmenter`, `SegmentBatch`, `open_run`.

No other room imports it but `look`.
"""
