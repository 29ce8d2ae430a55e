"""The published text-to-image command: `accelerate launch train_t2i.py ...` trains an MMDiT."""

import sys

from repa.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], {"model": "MMDiT-S/2"}))
