"""The published sampling command: `torchrun --nproc_per_node=N generate.py ...`."""

import sys

from repa.commandline import parse_options, run
from repa.config import GenerateOptions
from repa.out_of_memory import run_with_advice


def main(arguments: list[str]) -> None:
    """Parses the published options and draws; see `repa.sampling.published`."""
    options = parse_options(GenerateOptions, arguments, "generate.py")

    from repa.sampling.published import run_generate

    run_with_advice(run_generate, options)


if __name__ == "__main__":
    sys.exit(run("generate.py", lambda: main(sys.argv[1:])))
