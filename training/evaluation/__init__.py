"""Metrics and benchmarks of a world against recordings."""
