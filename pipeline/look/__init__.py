"""A sheet of photographs, labels and confidence from any run: which rows are chosen, and how they are drawn.

This package reads runs through `api` and writes nothing into them. Only jobs call it.
"""
