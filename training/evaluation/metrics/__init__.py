"""Figures of arrays and pictures."""
