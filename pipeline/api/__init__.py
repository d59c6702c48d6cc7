"""`Segmenter`, `SegmentBatch` and `open_run`, for notebooks and for other people's pipelines.

Only the room `look` imports this package.
"""
