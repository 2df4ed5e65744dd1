"""`python -m drivedit_env` is `drivedit-play`."""

import sys

from drivedit_env.viewer.play import main

if __name__ == "__main__":
    sys.exit(main())
