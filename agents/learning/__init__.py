"""Reinforcement learning in a dream."""
