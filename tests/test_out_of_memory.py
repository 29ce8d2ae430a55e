import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from repa.cli import COMMANDS
from repa.config import (
    AlignOptions,
    DemoOptions,
    EvaluateOptions,
    GenerateOptions,
    Options,
    PrepareOptions,
    ProbeOptions,
    SampleOptions,
    TrainOptions,
)
from repa.errors import RepaError
from repa.out_of_memory import ADVICE, is_out_of_memory, run_with_advice

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB"
HERE = Path("here")


def _allocation_error() -> Exception:
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("a machine without end")


def _numpy_error() -> Exception:
    try:
        np.zeros(2**60, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError("a machine without end")


OUT_OF_MEMORY = [
    torch.OutOfMemoryError(CUDA),
    _allocation_error(),
    _numpy_error(),
    MemoryError(),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.71 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    RuntimeError("shapes cannot be multiplied"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("out of memory"),
    RepaError("out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_errors_of_all_libraries_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as raised:
        _run(DemoOptions(), error)
    assert raised.value is error


def _run(options: Options, error: Exception) -> None:
    def command(options: Options) -> None:
        raise error

    run_with_advice(command, options)


def _advice(options: Options, error: Exception | None = None) -> str:
    with pytest.raises(RepaError) as raised:
        _run(options, error or torch.OutOfMemoryError(CUDA))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def _train(**options: object) -> TrainOptions:
    return TrainOptions.model_validate(
        {"exp_name": "x", "data_dir": HERE, "model": "SiT-Ti/4"} | options
    )


TRAIN = (
    "out of memory with --batch-size 32 (it needed another 2.00 GiB): try a lower --batch-size, "
    "a higher --gradient-accumulation-steps in its place"
)


def test_training_names_what_is_left() -> None:
    least = _train(batch_size=32, mixed_precision="no")
    assert _advice(least).startswith(f"{TRAIN}, --gradient-checkpointing")
    assert "--mixed-precision bf16" in _advice(least)
    used = _train(batch_size=32, mixed_precision="bf16", gradient_checkpointing=True)
    assert _advice(used).startswith(TRAIN.partition(", a higher")[0])
    for flag in ("--gradient-checkpointing", "--mixed-precision"):
        assert flag not in _advice(used)
    judged = _train(batch_size=32, eval_every=10, eval_batch_size=48)
    assert _advice(judged).endswith(" or a lower --eval-batch-size than 48")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            SampleOptions(ckpt=HERE, per_proc_batch_size=7),
            "with --per-proc-batch-size 7 (it needed another 2.00 GiB): try a lower "
            "--per-proc-batch-size or --mixed-precision bf16",
        ),
        (
            GenerateOptions(mixed_precision="bf16"),
            "with --per-proc-batch-size 32 (it needed another 2.00 GiB): try a lower "
            "--per-proc-batch-size",
        ),
        (
            PrepareOptions(dest=HERE),
            "with --batch-size 64 (it needed another 2.00 GiB): try a lower --batch-size, fewer "
            "--num-workers or --mixed-precision bf16",
        ),
        (
            EvaluateOptions(samples=HERE, reference=HERE),
            "with --batch-size 64 (it needed another 2.00 GiB): try a lower --batch-size",
        ),
        (
            ProbeOptions(data_dir=HERE),
            "with --batch-size 64 (it needed another 2.00 GiB): try a lower --batch-size, "
            "--mixed-precision bf16, fewer --train-images or fewer --depths",
        ),
        (
            AlignOptions(data_dir=HERE, enc_type="pixels"),
            "with --batch-size 64 (it needed another 2.00 GiB): try a lower --batch-size, "
            "--mixed-precision bf16, fewer --num-images or fewer --depths",
        ),
        (
            DemoOptions(),
            "(it needed another 2.00 GiB): end other programs, or use a machine that has more",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Options) else "",
)
def test_each_command_names_its_batch_size_and_what_helps(options: Options, message: str) -> None:
    assert _advice(options) == f"out of memory {message}"


def test_all_options_named_exist() -> None:
    for kind, advice in ADVICE.items():
        flags = [word for way in advice for word in way.split() if word.startswith("--")]
        assert {flag[2:].replace("-", "_") for flag in flags} <= kind.model_fields.keys()
    for options, _ in COMMANDS.values():
        if any("batch_size" in name for name in options.model_fields):
            assert issubclass(options, tuple(ADVICE))


def test_what_a_reader_took_for_a_broken_file_is_known() -> None:
    def command(options: Options) -> None:
        try:
            torch.empty(2**60, dtype=torch.uint8)
        except Exception:
            raise RepaError("cannot read weights: the file is broken") from None

    with pytest.raises(RepaError, match=r"^out of memory \(it needed another 1152921504606846976"):
        run_with_advice(command, DemoOptions())
