"""The plan: what there is to label, written once and only added to. The fingerprint: what must stay equal in a run.

This room knows sources, but nothing about their parts.
"""
