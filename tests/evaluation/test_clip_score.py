"""CLIP scores of samples: their definition, their listing, what does not count."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from evaluation.captioned import COUNT, LONG, SIDE, write_lines
from evaluation.tiny import options
from repa.data import PreparedDataset
from repa.evaluation.clip_score import load_scorer, score_prompts
from repa.evaluation.evaluate import evaluate, run_evaluate
from repa.evaluation.images import ImageSet
from repa.evaluation.prompts import read_prompts
from repa.weights import network_fingerprint


def expected_scores(clip: Path, images: np.ndarray, texts: list[str]) -> list[float]:
    """One by one, by transformers' own functions, with Pillow's resizing."""
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    mean, std = (
        torch.tensor(c).view(3, 1, 1)
        for c in (
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        )
    )
    scores = []
    for pixels, text in zip(images, texts, strict=True):
        small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        x = (torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255 - mean) / std
        with torch.no_grad():
            pooled = model.vision_model(pixel_values=x[None]).pooler_output
            image = model.visual_projection(pooled)
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=77).input_ids
            words = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        scores.append(max(0.0, 100 * F.cosine_similarity(image, words).item()))
    return scores


def test_scores_are_in_the_result_and_the_csv_file(
    tmp_path: Path,
    emoji_dir: Path,
    emoji: PreparedDataset,
    samples: Path,
    clip: Path,
    tiny: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = tmp_path / "new" / "scores.csv"
    more: dict[str, Any] = {"clip": str(clip), "prompt_scores": table, "batch_size": 5}
    run_evaluate(options(emoji_dir, samples, output=tmp_path / "a.json", **more))
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "a.json").read_text())
    names = [emoji.captions(i)[0] for i in range(COUNT)]
    expected = expected_scores(clip, np.load(samples)["arr_0"], names)
    assert min(expected) == 0 < max(expected) < 100
    assert np.std(expected) > 3
    assert result["clip_score"] == pytest.approx(np.mean(expected), abs=0.2)
    assert float(printed.split("clip_score")[1].split()[0]) == pytest.approx(result["clip_score"])

    rows = list(csv.DictReader(table.open(newline="")))
    assert list(rows[0]) == ["index", "prompt", "score"]
    assert [(int(row["index"]), row["prompt"]) for row in rows] == list(enumerate(names))
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(scores, expected, atol=2)  # Pillow rounds at other places
    assert result["clip_score"] == pytest.approx(np.mean(scores), abs=1e-4)

    prompts = result["prompts"]
    assert prompts["count"] == COUNT
    order = sorted(range(COUNT), key=lambda i: scores[i])
    assert [row["score"] for row in prompts["worst"]] == pytest.approx(
        [scores[i] for i in order[:10]], abs=1e-4
    )
    assert [row["index"] for row in prompts["best"]] == order[::-1][:10]
    first = prompts["best"][0]
    assert (first["file"], first["prompt"]) == (f"{order[-1]:06d}.png", names[order[-1]])
    assert result["clip"] == {
        "name": str(clip),
        "weights": network_fingerprint(CLIPModel.from_pretrained(clip)),
    }
    assert result["versions"].keys() == {"repa", "torch", "timm", "transformers"}

    run_evaluate(options(emoji_dir, samples, **more, overwrite=True))
    plain = evaluate(options(emoji_dir, samples, clip="none"))
    added = {"clip_score", "clip", "prompts"}
    del result["versions"]["transformers"]
    assert plain == {key: value for key, value in result.items() if key not in added}


def test_a_score_is_that_of_the_images_own_text(clip: Path, emoji: PreparedDataset) -> None:
    """Whatever else is in the batch; what lies beyond 77 tokens does not count."""
    scorer = load_scorer(str(clip))
    images = torch.from_numpy(emoji.images(range(8)))
    texts = ["red heart", "cat", LONG, "", "police car", "Red  HEART", LONG + "cat", "é😀"]
    with torch.no_grad():
        together = scorer(images, texts)
        alone = [scorer(images[i : i + 1], texts[i : i + 1]) for i in range(8)]
        every = scorer(images.repeat_interleave(8, 0), texts * 8).view(8, 8)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(every.diag(), together, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(every[:, [0, 2]], every[:, [5, 6]], rtol=1e-4, atol=1e-3)
    assert (every[:, 0] - every[:, 1]).abs().max() > 3
    assert scorer.length == 77
    assert scorer.count_cut(texts) == 2
    assert not any(p.requires_grad for p in scorer.parameters())


SIZES = [(32, 32), (33, 90), (224, 224), (512, 300), (256, 512), (28, 500)]


@pytest.mark.parametrize("size", SIZES)
def test_images_are_seen_as_by_clips_own_processor(clip: Path, size: tuple[int, int]) -> None:
    """A published CLIP's values: a resized short side, its middle square, its means. Batches of
    tensors must come out as single Pillow images do."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3, *size, 3), np.uint8)
    seen: list[Tensor] = []
    scorer = load_scorer(str(clip))
    scorer.network.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    with torch.no_grad():
        scorer(torch.from_numpy(pixels).permute(0, 3, 1, 2), ["red heart"] * 3)
    own = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    images = [Image.fromarray(image) for image in pixels]
    expected = torch.cat([own(image, return_tensors="pt").pixel_values for image in images])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)


def test_opposite_embeddings_score_nothing(clip: Path) -> None:
    """max(cos, 0) of each pair, not of the mean: turning the images' embeddings round leaves 0."""
    scorer = load_scorer(str(clip))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 30, 40), dtype=torch.uint8, generator=generator)
    texts = ["red heart", "cat"] * 4
    with torch.no_grad():
        one = scorer(images, texts)
        scorer.network.visual_projection.weight *= -1
        other = scorer(images, texts)
    assert ((one == 0) != (other == 0)).all()


def test_empty_and_long_prompts_are_told(
    emoji_dir: Path, samples: Path, clip: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["red heart"] * (COUNT - 3) + ["", " \n", LONG]
    write_lines(samples.with_name("a.prompts.jsonl"), texts)
    table = samples.with_name("x.csv")
    result = evaluate(options(emoji_dir, samples, clip=str(clip), prompt_scores=table))
    assert result is not None
    printed = capsys.readouterr().out.splitlines()
    assert "warning: 2 samples of empty prompts are left out of clip_score" in printed
    assert "note: of 1 prompts clip_score sees only the first 77 tokens" in printed
    assert result["prompts"]["count"] == COUNT - 2
    rows = list(csv.DictReader(table.open(newline="")))
    assert [int(row["index"]) for row in rows] == [*range(COUNT - 3), COUNT - 1]
    mean = np.mean([float(row["score"]) for row in rows])
    assert result["clip_score"] == pytest.approx(mean, abs=1e-4)


def test_processes_share_the_samples(
    samples: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, images = load_scorer(str(clip)), ImageSet(samples)
    prompts = read_prompts(samples.with_name("a.prompts.jsonl"), COUNT)
    one = score_prompts(scorer, images, prompts, 5, PartialState(cpu=True)).scores
    parts: list[Tensor] = []

    def gather(rows: Tensor) -> Tensor:
        parts.append(rows)
        return one

    monkeypatch.setattr("repa.evaluation.clip_score.gather_rows", gather)
    for process in range(5):
        state: Any = SimpleNamespace(
            process_index=process, num_processes=5, device=torch.device("cpu"), is_main_process=True
        )
        assert score_prompts(scorer, images, prompts, 2, state).scores.equal(one)
    assert {len(part) for part in parts} == {4, 5}
    torch.testing.assert_close(torch.cat(parts), one, rtol=1e-4, atol=1e-3)
