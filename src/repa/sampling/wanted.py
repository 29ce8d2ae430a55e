"""What samples are drawn of: a class or a text for each image.

NAME.prompts.jsonl    {"index": 0, "file": "000000.png", "prompt": "a red heart"}, a line each
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import PartialState
from torch import Tensor

from repa.checkpoints import CheckpointState, lacks_null_context
from repa.config import DrawOptions
from repa.config.sample import PromptOptions
from repa.errors import RepaError
from repa.files import write_atomically
from repa.models import Backbone, MMDiT, Transformer
from repa.sampling.archive import SampleArchive
from repa.sampling.labels import choose_labels
from repa.sampling.prompts import Prompts, choose_prompts
from repa.sampling.text_encoder import fill_null_context

# From the labels (n,) of some images to the conditions (n, ...) that the model takes.
Condition = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wanted:
    """One for each image.

    Attributes:
        labels: (N,) int64: classes, or numbers of prompts.
        condition: what the model takes for labels.
        prompts: the texts, of a model that takes texts.
    """

    labels: np.ndarray
    condition: Condition
    prompts: Prompts | None = None

    def record(self) -> dict[str, Any]:
        """What a request says besides the labels."""
        return {} if self.prompts is None else {"prompts": self.prompts.fingerprint}

    def write_prompts(self, archive: SampleArchive) -> None:
        """Which image is of which text, beside the archive; nothing for classes.

        Raises:
            RepaError: if it cannot be written.
        """
        if self.prompts is None or self.prompts.texts is None:
            return
        lines = (
            {"index": i, "file": f"{i:06d}.png", "prompt": self.prompts.texts[label]}
            for i, label in enumerate(self.labels.tolist())
        )
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            write_atomically(archive.prompts, text.encode())
        except OSError as error:
            raise RepaError(f"cannot write {archive.prompts}: {error}") from None


def choose_wanted(
    options: DrawOptions, model: Backbone, state: CheckpointState, processes: PartialState
) -> Wanted:
    """What the options ask of this model.

    Raises:
        RepaError: if it takes something else, or a class or text cannot be had.
    """
    if isinstance(model, MMDiT):
        prompts = choose_prompts(options, model, state, processes)
        if lacks_null_context(state):
            fill_null_context(model, prompts.empty())
        count = prompts.count
        if "num_fid_samples" in options.model_fields_set:
            count = options.num_fid_samples
        labels = np.arange(count, dtype=np.int64) % prompts.count
        return Wanted(labels, lambda y: prompts.tokens(y.tolist()), prompts)
    assert isinstance(model, Transformer)
    given = options.model_fields_set & PromptOptions.model_fields.keys()
    if given:
        raise RepaError(f"--{min(given).replace('_', '-')}: {state.model} draws classes, no texts")
    count, seed = options.num_fid_samples, options.seed
    labels = choose_labels(options.classes, count, model.num_classes, state.classes, seed)
    return Wanted(labels, lambda y: y)
