"""`python -m digitsum`, the same as `digitsum`."""

import sys

from digitsum.cli import main

if __name__ == "__main__":
    sys.exit(main())
