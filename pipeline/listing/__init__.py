"""What `--input` names: folders, globs, lists, shards; and what a list may name.

It reads names, and no images.
"""
