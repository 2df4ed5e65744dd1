"""Figures as tables, cards, pictures and films."""
