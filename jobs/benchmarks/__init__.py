"""What measures: run by hand, never in tests."""
