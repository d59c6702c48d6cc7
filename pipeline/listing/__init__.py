"""What `--input` names: folders, globs, lists, shards; and what a list may name.

This room reads names, but no images.
"""
