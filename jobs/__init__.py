"""The jobs that users submit: `python -m jobs.NAME …`, or `maskfleet NAME …`."""
