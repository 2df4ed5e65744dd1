"""Who drives: scripted drivers that see pixels only, and the loop that lets them drive an environment."""
