"""Samplers and the streaming rollout."""
