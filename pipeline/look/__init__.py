"""A sheet of photographs, labels and confidence from any run: which rows, how they are drawn, and what cannot be shown.

It reads runs through `api` and writes nothing into them; only jobs call it.
"""
