"""Evaluate a model on a labelled archive; `python jobs/evaluate.py --help` lists the options."""

import sys

from digitsum.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
