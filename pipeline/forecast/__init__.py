"""What a run will take, without running it: `--dry-run`.

It uses the steps of an attempt up to the first round, and commits nothing.
"""
