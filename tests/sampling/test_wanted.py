from pathlib import Path

import numpy as np
import pytest
import torch

from repa.errors import RepaError
from repa.sampling.archive import SampleArchive
from repa.sampling.prompts import Prompts
from repa.sampling.wanted import Wanted


def test_prompts_that_cannot_be_written_beside_the_samples_are_said(tmp_path: Path) -> None:
    archive = SampleArchive(tmp_path / "a", {}, 1, png=False)
    archive.prompts.mkdir()
    texts = Prompts(1, ["cat"], lambda _: torch.zeros(1), lambda: torch.zeros(1), "", lambda: None)
    wanted = Wanted(np.zeros(1, np.int64), lambda y: y, texts)
    with pytest.raises(RepaError, match=r"^cannot write \S+a\.prompts\.jsonl: "):
        wanted.write_prompts(archive)
