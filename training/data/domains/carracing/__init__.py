"""CarRacing from above: the simulator behind the spaces of a dream, its recorded drivers, and policies that see it."""
