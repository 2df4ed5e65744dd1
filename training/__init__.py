"""Offline: losses, trainers and the one training loop."""
