"""The published training command: `accelerate launch train.py ...` is `repa train ...`."""

import sys

from repa.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
