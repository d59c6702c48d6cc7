"""Logits -> label map -> mask and statistics."""
