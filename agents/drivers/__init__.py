"""Who drives: scripted drivers that see only pixels, and learned policies."""
