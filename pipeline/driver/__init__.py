"""The story of a run: list, plan, label in rounds, sum up. The only room that imports Ray.

What is done per image, or knows a file format, does not belong here.
"""
