"""Planning in a dream."""
