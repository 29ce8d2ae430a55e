"""Random numbers that depend on a seed and on what they are for, never on process or batch.

Each stream is a counter-based generator (Philox) keyed by (seed, purpose, index). Training draws
from the stream of a visit, the running number of a sample over the whole run; sampling from the
stream of an image's index. So results are the same for any batch size and number of processes, and
a resumed run continues them without any stored state.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; streams of different purposes are independent."""

    SHUFFLE = 0
    TRAINING = 1
    SAMPLING = 2
    LABELS = 3
    ANALYSIS = 4
    PROBING = 5
    PATCHES = 6


def stream(seed: int, purpose: Purpose, index: int) -> np.random.Generator:
    """The random stream of the index-th epoch, visit or image."""
    key = np.array([seed % 2**64, int(purpose)], np.uint64)
    counter = np.array([0, 0, index, 0], np.uint64)  # 2^128 draws before streams could meet
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def standard_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, float32."""
    return generator.standard_normal(shape, dtype=np.float32)
