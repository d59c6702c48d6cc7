"""Bytes -> an upright RGB photograph -> what a network reads.

It knows nothing of networks but their preset.
"""
