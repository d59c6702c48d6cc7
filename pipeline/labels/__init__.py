"""Logits -> mask, confidence and statistics, at the size of the photograph; `labeller.py` puts image, engine and labels together.

This room knows one photograph at a time, and no files but PNG.
"""
