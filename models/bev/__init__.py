"""Worlds that keep the ground around the car, seen from above, and render pictures of it."""
