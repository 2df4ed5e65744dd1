"""What a world is told: the route and who is on the road, seen from above or through a camera."""
