"""`python -m sidegate` runs the command `sidegate`."""

import sys

from sidegate.cli import main

if __name__ == "__main__":
    sys.exit(main())
