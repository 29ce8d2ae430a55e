import numpy as np
import pytest
import torch

from repa.data.text import (
    caption_starts,
    check_captions,
    drawn_caption,
    empty_text_file,
    pack_text,
    text_array,
    text_encoder_name,
)
from repa.errors import RepaError


@pytest.mark.parametrize("name", ["clip-vit-l", "t5:org/t5_v1.1", "sentence:/tmp/my model", "ä%2F"])
def test_any_name_of_an_encoder_makes_a_file_name(name: str) -> None:
    array = text_array(name)
    assert "/" not in array
    assert text_encoder_name(array) == name
    assert empty_text_file(name) == f"{array}.empty.npy"


def test_usual_names_are_kept_as_they_are() -> None:
    assert text_array("clip-vit-l") == "text.clip-vit-l"


def test_starts_count_the_captions_before_an_image() -> None:
    starts = caption_starts([["a", "b"], [], ["c"]])
    assert starts.dtype == np.int64
    assert starts.tolist() == [0, 2, 2, 3]
    assert caption_starts([]).tolist() == [0]


def test_each_caption_is_drawn_by_its_part_of_the_numbers() -> None:
    numbers = [drawn_caption(u, 4) for u in (0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 0.999)]
    assert numbers == [0, 0, 1, 2, 2, 3, 3]
    assert drawn_caption(float(np.nextafter(1.0, 0.0)), 3) == 2
    assert drawn_caption(0.9, 1) == 0


def test_tokens_beyond_half_precision_are_clamped() -> None:
    packed = pack_text(torch.tensor([[1e6, -1e6, 0.0, 1.5]]))
    assert packed.dtype == torch.float16
    assert packed.tolist() == [[65504.0, -65504.0, 0.0, 1.5]]


def test_text_needs_captions() -> None:
    check_captions([], "pictures", False)
    check_captions(["minilm"], "pictures", True)
    message = (
        "^--text-enc-type minilm,t5-small: pictures has no captions; leave it out, or give a "
        "source that has them: .txt files or a metadata.jsonl beside the images, MS-COCO's folder, "
        "a caption column$"
    )
    with pytest.raises(RepaError, match=message):
        check_captions(["minilm", "t5-small"], "pictures", False)
