"""Worlds whose next picture is the last one, warped by the ego-motion, and painted over."""
