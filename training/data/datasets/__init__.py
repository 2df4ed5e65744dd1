"""Clips as tensors, and their transforms (the published API)."""
