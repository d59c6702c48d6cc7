"""What the parts of an output add up to, kept in a checkpoint so that only new footers are read.

All of it can be made again from the parts.
"""
