"""What one process does with a span: read, label, commit part by part.

This package does not import Ray: a worker also runs in a plain process.
"""
