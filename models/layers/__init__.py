"""Layers that the networks share; they know no world."""
