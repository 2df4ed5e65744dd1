"""What is measured of a world, and how."""
