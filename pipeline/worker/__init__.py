"""What one process does with a span: read, label, commit part by part.

No Ray in here: a worker runs in a plain process, too.
"""
