"""What one submits: `python -m jobs.NAME …`, or `maskfleet NAME …`."""
