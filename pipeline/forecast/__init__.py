"""`--dry-run`: the time, size, requests and price that a run will take, without running it.

A forecast uses the steps of an attempt up to the first round, and commits nothing.
"""
