"""Out of memory: one line with the batch size in use and the options that help. No PyTorch here."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from repa.config import (
    AlignOptions,
    DrawOptions,
    EvaluateOptions,
    Options,
    PrepareOptions,
    ProbeOptions,
    TrainOptions,
)
from repa.errors import RepaError

T = TypeVar("T", bound=Options)

# The size of a batch, which is to be lowered first, and what else helps.
ADVICE: dict[type[Options], tuple[str, ...]] = {
    TrainOptions: (
        "--batch-size",
        "a higher --gradient-accumulation-steps in its place",
        "--gradient-checkpointing",
        "--mixed-precision bf16",
        "--fsdp",
    ),
    DrawOptions: ("--per-proc-batch-size", "--mixed-precision bf16"),
    PrepareOptions: ("--batch-size", "fewer --num-workers", "--mixed-precision bf16"),
    EvaluateOptions: ("--batch-size",),
    ProbeOptions: (
        "--batch-size",
        "--mixed-precision bf16",
        "fewer --train-images",
        "fewer --depths",
    ),
    AlignOptions: (
        "--batch-size",
        "--mixed-precision bf16",
        "fewer --num-images",
        "fewer --depths",
    ),
}

# In the words of PyTorch's allocators, CUDA's libraries and C++.
WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|"
    r"STATUS_ALLOC_FAILED|std::bad_alloc",
    re.IGNORECASE,
)
WANTED = re.compile(r"tr(?:ied|ying) to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", re.IGNORECASE)


def run_with_advice(command: Callable[[T], object], options: T) -> None:
    """Calls `command(options)`.

    Raises:
        RepaError: if memory does not suffice, with what to do; other errors pass.
    """
    try:
        command(options)
    except Exception as error:
        cause = next(filter(is_out_of_memory, _chain(error)), None)
        if cause is None:
            raise
        raise RepaError(_message(cause, options)) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy, the system or PyTorch, on any device, says this."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RepaError):  # its own words are for the user, and only cite such
        return False
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and WORDS.search(str(error)) is not None
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came of: readers of files take any error for a broken file's."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _message(error: BaseException, options: Options) -> str:
    wanted = WANTED.search(str(error))
    size = f" (it needed another {wanted[1]})" if wanted else ""
    advice = next((a for kind, a in ADVICE.items() if isinstance(options, kind)), None)
    if advice is None:
        return f"out of memory{size}: end other programs, or use a machine that has more"
    first, *others = advice
    ways = [f"a lower {first}", *(way for way in others if _is_left(options, way))]
    if getattr(options, "eval_every", None):
        ways.append(f"a lower --eval-batch-size than {_value(options, '--eval-batch-size')}")
    *before, last = ways
    shown = f"{', '.join(before)} or {last}" if before else last
    return f"out of memory with {first} {_value(options, first)}{size}: try {shown}"


def _value(options: Options, flag: str) -> Any:
    return getattr(options, flag.removeprefix("--").replace("-", "_"))


def _is_left(options: Options, way: str) -> bool:
    """Whether an option does not have the value advised already."""
    if not way.startswith("--"):
        return True
    flag, _, wanted = way.partition(" ")
    return _value(options, flag) == "no" if wanted else not _value(options, flag)
