"""The street: a road with traffic, seen from the driver's seat and by a LiDAR, at any hour and in any weather."""
