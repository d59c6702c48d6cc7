"""The files of OUT: parts and their names, footers, `run.json`; and which planned images have no part yet.

No other package knows what these files are called, or what is in them.
"""
