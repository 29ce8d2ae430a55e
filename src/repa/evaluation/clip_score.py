"""CLIP score: how well samples show the texts they were drawn for."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm

from repa.errors import RepaError, first_line
from repa.evaluation.extract import full_precision
from repa.evaluation.images import ImageSet
from repa.evaluation.prompts import Prompt
from repa.evaluation.targets import SCORE_COLUMNS, writing
from repa.processes import gather_rows, share
from repa.text.folder import find_folder, load_network, load_tokenizer
from repa.weights import network_fingerprint

LISTED = 10  # of the best prompts, and of the worst


class ClipScorer(nn.Module):
    """A whole CLIP (Radford et al., 2021), frozen, from images and their texts to scores.

    Args:
        name: as given.
        network: transformers' CLIPModel.
        tokenizer, processor: transformers' for it, of texts and of images.

    Attributes:
        length: tokens of a text that it sees.
    """

    def __init__(self, name: str, network: Any, tokenizer: Any, processor: Any):
        super().__init__()
        self.name = name
        self.network = network
        self.tokenizer = tokenizer
        self.processor = processor
        self.length = int(network.config.text_config.max_position_embeddings)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """`max(0, 100 cos(E_image, E_text))`, of each image and its own text.

        It is CLIP-S (Hessel et al., EMNLP 2021) with the weight 100, as torchmetrics scales it, in
        place of 2.5, and with the texts as they are, nothing put before them.

        Args:
            images: (N, 3, H, W) uint8, on the CPU: there they are resized alike for all devices.
            texts: N of them; of long ones the first `length` tokens count.

        Returns:
            (N,) floating, in [0, 100], on the network's device.
        """
        pixels = self.processor(
            images=list(images), return_tensors="pt", input_data_format="channels_first"
        )
        tokens = self.tokenizer(
            list(texts), truncation=True, max_length=self.length, padding=True, return_tensors="pt"
        )
        device = next(self.network.parameters()).device
        found = self.network(**tokens.to(device), pixel_values=pixels.pixel_values.to(device))
        cosines = (found.image_embeds * found.text_embeds).sum(1)  # both are of length 1
        return 100 * cosines.clamp(min=0)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than it sees."""
        # Quietly: the tokenizer warns of each that is longer than the network takes.
        encoded = self.tokenizer(list(texts), verbose=False).input_ids
        return sum(len(tokens) > self.length for tokens in encoded)


@dataclass(frozen=True)
class PromptScores:
    """The scores of a set of samples.

    Attributes:
        prompts: those that say something, in the order of the samples.
        scores: (M,) float32, of each.
        silent: how many samples have an empty prompt, and no score.
        cut: how many prompts are longer than what CLIP sees.
        scorer: that gave them.
    """

    prompts: Sequence[Prompt]
    scores: Tensor
    silent: int
    cut: int
    scorer: ClipScorer

    def record(self) -> dict[str, Any]:
        """For the result: the mean, by which CLIP, the best prompts first, the worst ones first."""
        rows = [
            {"index": prompt.index, "file": prompt.file, "prompt": prompt.text, "score": score}
            for prompt, score in zip(self.prompts, self.scores.tolist(), strict=True)
        ]
        scorer = self.scorer
        return {
            "clip_score": self.scores.double().mean().item(),
            "clip": {"name": scorer.name, "weights": network_fingerprint(scorer.network)},
            "prompts": {
                "count": len(rows),
                "best": sorted(rows, key=lambda row: -row["score"])[:LISTED],
                "worst": sorted(rows, key=lambda row: row["score"])[:LISTED],
            },
        }

    def remarks(self) -> Iterator[str]:
        """What the user should know, a line each."""
        if self.silent:
            yield f"warning: {self.silent} samples of empty prompts are left out of clip_score"
        if self.cut:
            length = self.scorer.length
            yield f"note: of {self.cut} prompts clip_score sees only the first {length} tokens"

    def save(self, path: Path) -> None:
        """Writes a CSV file, a line for each prompt in the order of the samples.

        Raises:
            RepaError: if it cannot be written.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(SCORE_COLUMNS)
        for prompt, score in zip(self.prompts, self.scores.tolist(), strict=True):
            table.writerow((prompt.index, prompt.text, f"{score:.4f}"))
        with writing("--prompt-scores", path) as file:
            file.write(text.getvalue().encode())


def load_scorer(name: str, weights: Path | None = None) -> ClipScorer:
    """A CLIP with its tokenizer and preprocessing, on the CPU, in float32.

    Args:
        name: a folder in transformers' format, or a repository on the hub.
        weights: the folder to take instead.

    Raises:
        RepaError: if a file is missing or broken, or belongs to another network.
    """
    from transformers import CLIPModel, CLIPTokenizer  # which takes seconds

    try:
        folder = find_folder(name, name, weights)
    except RepaError as error:  # which names the option of `repa prepare`
        said = str(error).replace("--text-encoder-weights", "--clip-weights")
        raise RepaError(f"{said}; or leave the CLIP score out with --clip none") from None
    # transformers draws random weights for what a file lacks.
    with torch.random.fork_rng(devices=[]):
        network = load_network(CLIPModel, folder)
    tokenizer = load_tokenizer(CLIPTokenizer, folder, network.text_model)
    processor = _load_processor(folder, network.config.vision_config.image_size)
    return ClipScorer(name, network, tokenizer, processor)


def score_prompts(
    scorer: ClipScorer,
    images: ImageSet,
    prompts: Sequence[Prompt],
    batch_size: int,
    state: PartialState,
) -> PromptScores:
    """The scores of all samples on each process, each having computed a share of them.

    In float32, products too, as features are.

    Args:
        scorer: on the device of `state`.
        images, prompts: N of them, the same on all processes.
        batch_size: images at a time.
        state: this process and the others.

    Raises:
        RepaError: if the images cannot be read, or a score is not a finite number.
    """
    wanted = share(len(images), state.process_index, state.num_processes)
    starts = range(wanted.start, wanted.stop, batch_size)
    batches = zip(starts, images.batches(batch_size, wanted), strict=True)
    shown = tqdm(
        batches, "CLIP score", len(starts), unit="batch", disable=not state.is_main_process
    )
    parts = [torch.zeros(0)]
    with torch.no_grad(), full_precision(state.device):
        for start, batch in shown:
            texts = [prompt.text for prompt in prompts[start : start + len(batch)]]
            part = scorer(batch, texts).float().cpu()
            if not part.isfinite().all():
                raise RepaError(
                    f"{scorer.name} gives scores that are not finite numbers: are its weights "
                    "damaged?"
                )
            parts.append(part)
    scores = gather_rows(torch.cat(parts))
    told = [prompt for prompt in prompts if prompt.text]
    kept = scores[[prompt.index for prompt in told]]
    cut = scorer.count_cut([prompt.text for prompt in told])
    return PromptScores(told, kept, len(prompts) - len(told), cut, scorer)


def _load_processor(folder: Path, side: int) -> Any:
    """The image processor of a CLIP that takes images of this side, checked on one."""
    from transformers import CLIPImageProcessor

    try:
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        black = [torch.zeros(3, 8, 9, dtype=torch.uint8)]
        made = processor(images=black, return_tensors="pt", input_data_format="channels_first")
        shape = tuple(made.pixel_values.shape)
    except Exception as error:  # whatever Python makes of a broken config
        raise RepaError(
            f"cannot load the preprocessing from {folder}: {first_line(error)}; expected CLIP's "
            "preprocessor_config.json beside its weights"
        ) from None
    if shape != (1, 3, side, side):
        raise RepaError(
            f"{folder}: its preprocessor_config.json makes images of {shape[3]}x{shape[2]}, its "
            f"network takes {side}x{side}; they do not belong together"
        )
    return processor
