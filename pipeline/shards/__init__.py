"""Sources of encoded images: tars, Parquet, single files, from any place in them on.

It gives bytes and says what is broken; nothing is decoded here.
"""
