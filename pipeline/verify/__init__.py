"""`verify` proves that an output is whole and true; `repair` removes damaged parts and makes derived files again.

This package reads what lies in OUT, and trusts no module that wrote it.
"""
