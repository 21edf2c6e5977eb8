"""Train a network on a labelled archive; `python jobs/train.py --help` lists the options."""

import sys

from digitsum.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
