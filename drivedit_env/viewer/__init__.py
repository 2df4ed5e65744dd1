"""Driving by hand: the window, the keys, the session behind them, and what is recorded."""
