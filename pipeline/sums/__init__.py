"""The sums over all parts of an output. A checkpoint keeps them, so that only new footers are read.

All files of this package can be made again from the parts.
"""
