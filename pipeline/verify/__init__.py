"""Is an output whole, and true? `verify` proves it, `repair` removes what is not and makes derived files again.

It reads what lies in OUT, and trusts no module that wrote it.
"""
