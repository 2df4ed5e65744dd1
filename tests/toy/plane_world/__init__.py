"""A point on a plane: a domain as a package of one's own brings it, small enough to be learned in a test."""
