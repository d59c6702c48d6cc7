"""The files of OUT: parts and their names, footers, `run.json`; and what of the plan has no part yet.

Nothing else knows what these files are called, or what is in them.
"""
