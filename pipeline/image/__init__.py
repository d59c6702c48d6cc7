"""Bytes -> an upright RGB photograph -> what a network reads.

This room knows nothing about networks but their preset.
"""
