"""Encoded images from tars, Parquet files and single files, read from any place in a shard on.

This room gives bytes and says what is broken. It decodes nothing.
"""
