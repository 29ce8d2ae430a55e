"""The C library's allocator, set for large arrays."""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # numbers of mallopt's parameters in <malloc.h>


def keep_freed_memory(largest: int = 1 << 30) -> None:
    """Lets the allocator keep what is freed, for the next activation, instead of returning it.

    By default glibc maps every block above 32 MiB anew, and the kernel clears each page of it: a
    convolutional encoder on a CPU takes twice as long (benchmarks/cpu_choices.py). Other C
    libraries are left as they are.

    Args:
        largest: blocks of more bytes are still mapped anew.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(MMAP_THRESHOLD, largest)
        mallopt(TRIM_THRESHOLD, 2 * largest - 1)
