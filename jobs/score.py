"""Score an archive; `python jobs/score.py --help` lists the options."""

import sys

from digitsum.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
