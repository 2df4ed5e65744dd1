"""Who drives: scripted drivers and planners."""
