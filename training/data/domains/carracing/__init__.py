"""CarRacing from above: the simulator behind the spaces of a dream, and the drivers that are recorded in it."""
