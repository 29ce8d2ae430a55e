"""The commands: each parses its options, then calls one function.

Commands import what they need when they run, so that `--help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from repa.commandline import parse_options, run
from repa.config import (
    AlignOptions,
    ConvertOptions,
    DemoOptions,
    EncodersOptions,
    EvaluateOptions,
    Options,
    PrepareOptions,
    ProbeOptions,
    ReportOptions,
    SampleOptions,
    TrainOptions,
)
from repa.out_of_memory import run_with_advice


def _demo(options: DemoOptions) -> None:
    if options.text:
        from repa.demo_text import run_text_demo

        run_text_demo(options)
        return
    from repa.demo import run_demo

    run_demo(options)


def _prepare(options: PrepareOptions) -> None:
    from repa.data.command import run_prepare

    run_prepare(options)


def _train(options: TrainOptions) -> None:
    from repa.training import train

    train(options)


def _sample(options: SampleOptions) -> None:
    from repa.sampling.command import run_sample

    run_sample(options)


def _evaluate(options: EvaluateOptions) -> None:
    from repa.evaluation.evaluate import run_evaluate

    run_evaluate(options)


def _probe(options: ProbeOptions) -> None:
    from repa.analysis.probe import run_probe
    from repa.report.analysis_charts import write_probe_charts
    from repa.report.table import print_results

    results = run_probe(options)
    if results is not None:  # the first of several processes has them
        print_results(results)
        write_probe_charts(results, options.output_dir)


def _align(options: AlignOptions) -> None:
    from repa.analysis.align import run_align
    from repa.report.analysis_charts import write_align_charts
    from repa.report.table import print_results

    results = run_align(options)
    if results is not None:
        print_results(results)
        write_align_charts(results, options.output_dir)


def _report(options: ReportOptions) -> None:
    from repa.report.command import run_report

    run_report(options)


def _encoders(options: EncodersOptions) -> None:
    from repa.encoders.command import run_encoders

    run_encoders(options)


def _convert(options: ConvertOptions) -> None:
    from repa.checkpoints.convert import run_convert

    run_convert(options)


COMMANDS: dict[str, tuple[type[Options], Callable[[Any], None]]] = {
    "demo": (DemoOptions, _demo),
    "prepare": (PrepareOptions, _prepare),
    "train": (TrainOptions, _train),
    "sample": (SampleOptions, _sample),
    "evaluate": (EvaluateOptions, _evaluate),
    "probe": (ProbeOptions, _probe),
    "align": (AlignOptions, _align),
    "report": (ReportOptions, _report),
    "convert": (ConvertOptions, _convert),
    "encoders": (EncodersOptions, _encoders),
}


def main(arguments: list[str] | None = None, defaults: Mapping[str, Any] | None = None) -> int:
    """Runs `repa COMMAND [options]`; returns the exit code.

    Args:
        arguments: the command line; that of this process by default.
        defaults: options that hold where neither the command line nor a recipe has them.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"repa: error: no command {name!r}; choose from {', '.join(COMMANDS)}",
              file=sys.stderr)  # fmt: skip
        return 2
    options_class, command = COMMANDS[name]
    prog = f"repa {name}"
    return run(
        prog, lambda: run_with_advice(command, parse_options(options_class, rest, prog, defaults))
    )


def _usage() -> str:
    lines = [f"  {name:10}{options.__doc__}" for name, (options, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: repa COMMAND [options]",
            "",
            "Train diffusion transformers with representation alignment (REPA).",
            "",
            *lines,
            "",
            "`repa COMMAND --help` lists a command's options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
