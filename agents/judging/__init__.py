"""Judging policies in a dream, and how far to trust that."""
