"""Simulators, one folder each."""
