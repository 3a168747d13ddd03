"""`python -m proxy` is `sidegate`."""

import sys

from sidegate.cli import main

if __name__ == "__main__":
    sys.exit(main())
