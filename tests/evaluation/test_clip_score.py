"""A whole CLIP with small random weights, in the files that OpenAI puts on the hub."""

import csv
import json
import shutil
from collections.abc import Callable
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

from evaluation.tiny import options
from repa.cli import main
from repa.data import PreparedDataset, open_dataset
from repa.errors import RepaError
from repa.evaluation.clip_score import (
    Prompt,
    find_prompts,
    load_scorer,
    read_prompts,
    score_prompts,
)
from repa.evaluation.evaluate import evaluate, run_evaluate
from repa.evaluation.images import ImageSet
from repa.weights import network_fingerprint
from text.models import save_bert, save_clip

COUNT, SIDE = 24, 28
LONG = "red heart " * 100


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, emoji: PreparedDataset) -> Path:
    """Random weights see everything alike, so what they see of emoji is centered."""
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    square = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)
    processor.save_pretrained(folder)
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    pixels = processor(list(torch.from_numpy(emoji.images(range(64)))), return_tensors="pt")
    names = [emoji.captions(i)[0] for i in range(64)]
    tokens = tokenizer(names, padding=True, return_tensors="pt")
    with torch.no_grad():
        vision, text = model.vision_model, model.text_model
        vision.post_layernorm.bias -= vision(**pixels).pooler_output.mean(0)
        text.final_layer_norm.bias -= text(**tokens).pooler_output.mean(0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "copy"))


def write_lines(path: Path, texts: list[str], indices: list[int] | None = None) -> Path:
    lines = [
        {"index": i, "file": f"{i:06d}.png", "prompt": text}
        for i, text in zip(indices or range(len(texts)), texts, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def samples(tmp_path: Path, emoji: PreparedDataset) -> Path:
    """Real emoji with their names as prompts beside them, in no order."""
    images = emoji.images(range(COUNT)).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "a.npz", arr_0=images)
    names = [emoji.captions(i)[0] for i in range(COUNT)]
    write_lines(tmp_path / "a.prompts.jsonl", names[::-1], list(range(COUNT))[::-1])
    return tmp_path / "a.npz"


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

    run_evaluate(options(emoji_dir, samples, **more))  # a former list is replaced
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


def test_a_named_file_and_local_weights(
    emoji_dir: Path, samples: Path, clip: Path, tiny: None
) -> None:
    beside = samples.with_name("a.prompts.jsonl")
    named = beside.rename(samples.with_name("other.jsonl"))
    bare = evaluate(options(emoji_dir, samples, clip_weights=clip))
    assert bare is not None
    assert "clip_score" not in bare
    found = evaluate(options(emoji_dir, samples, clip_weights=clip, prompts=named))
    assert found is not None
    assert found["clip_score"] > 0
    assert found["clip"]["name"] == "openai/clip-vit-large-patch14"


def test_the_file_beside_samples_is_for_an_npz_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.prompts.jsonl", ["red heart"])
    assert find_prompts(options(tmp_path, tmp_path / "a"), 1) is None
    assert find_prompts(options(tmp_path, tmp_path / "b.npz"), 1) is None
    assert find_prompts(options(tmp_path, tmp_path / "a.npz", clip="none"), 1) is None
    found = find_prompts(options(tmp_path, tmp_path / "a.npz"), 1)
    assert found == [Prompt(0, "000000.png", "red heart")]


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


def line(index: Any = 0, file: Any = "0.png", prompt: Any = "a") -> bytes:
    return json.dumps({"index": index, "file": file, "prompt": prompt}).encode() + b"\n"


FORM = r'line 1 is not of the form {"index": 0, "file": "000000.png", "prompt": "a red heart"}$'
BROKEN: dict[str, tuple[bytes, str]] = {
    "too few": (line(0), "has prompts of 1 of 2 samples; give those of all 2 samples, or leave"),
    "none": (b"", "has prompts of 0 of 2 samples"),
    "cut short": (line(0) + line(1)[:20], "has prompts of 1 of 2 samples"),
    "too many": (line(0) + line(1) + line(2), "the index 2 of line 3 is none of 0 to 1; give"),
    "below": (line(-1) + line(1), "the index -1 of line 1 is none of 0 to 1"),
    "twice": (line(1) + line(1), "the index 1 of line 2 is there twice; give"),
    "not JSON": (line(0) + b"red heart\n" + line(1), "damaged: line 2 is not a JSON object"),
    "a list": (b'[0, "a"]\n', "damaged: line 1 is not a JSON object"),
    "not UTF-8": (line(0) + b'{"index": 1, "prompt": "caf\xe9"}\n', "line 2 is not a JSON object"),
    "deep": (b"[" * 100_000 + b"\n", "damaged: "),
    "no index": (line(None), FORM),
    "index a truth": (line(True), FORM),
    "index a fraction": (line(0.0), FORM),
    "no file": (b'{"index": 0, "prompt": "a"}\n', FORM),
    "prompt a number": (line(prompt=3), FORM),
    "half a character": (line(prompt="\ud83d"), FORM),
    "all empty": (line(0, prompt="") + line(1, prompt="\t"), "all prompts are empty; give"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_prompts_are_one_clear_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(data)
    with pytest.raises(RepaError, match=rf"p\.jsonl[^\n]*{message}") as error:
        read_prompts(tmp_path / "p.jsonl", 2)
    assert "\n" not in str(error.value)


def test_prompts_that_are_not_there(emoji_dir: Path, samples: Path, tiny: None) -> None:
    with pytest.raises(RepaError, match=r"cannot read .*nowhere\.jsonl: No such file"):
        evaluate(options(emoji_dir, samples, prompts=Path("nowhere.jsonl")))


def edit_preprocessor(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


PROCESSOR = r"^cannot load the preprocessing from .*preprocessor_config\.json beside its weights$"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no preprocessor": (lambda f: (f / "preprocessor_config.json").unlink(), PROCESSOR),
    "a list": (lambda f: (f / "preprocessor_config.json").write_text("[]"), PROCESSOR),
    "not JSON": (lambda f: (f / "preprocessor_config.json").write_text("{"), PROCESSOR),
    "nonsense": (edit_preprocessor(size="wide"), PROCESSOR),
    "other size": (
        edit_preprocessor(crop_size={"height": 14, "width": 42}),
        "makes images of 42x14, its network takes 28x28; they do not belong together",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "no vocabulary": (
        lambda f: [(f / file).unlink() for file in ("vocab.json", "merges.txt")],
        "has no tokenizer",
    ),
    "another network": (lambda f: (shutil.rmtree(f), save_bert(f)), "another network's folder"),
    "no folder": (shutil.rmtree, "there is no folder .*; or leave the CLIP score out with --clip"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_one_clear_line(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(RepaError, match=message) as error:
        load_scorer("openai/clip-vit-large-patch14", copy)
    assert "\n" not in str(error.value)
    assert "--text-encoder" not in str(error.value)


def test_a_clip_that_cannot_be_downloaded_is_found_before_the_work(
    emoji_dir: Path, samples: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **others: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr("repa.text.folder.snapshot_download", fail)
    monkeypatch.setattr("repa.evaluation.evaluate.load_reference", None)
    message = (
        r"^no weights for openai/clip-vit-large-patch14: download [^\n]*\(there is no network\)"
        r"[^\n]* with --clip-weights; or leave the CLIP score out with --clip none$"
    )
    with pytest.raises(RepaError, match=message):
        evaluate(options(emoji_dir, samples))


def test_a_clip_of_broken_weights(emoji_dir: Path, samples: Path, copy: Path, tiny: None) -> None:
    model = CLIPModel.from_pretrained(copy)
    model.text_projection.weight.data[0, 0] = torch.nan
    model.save_pretrained(copy)
    with pytest.raises(RepaError, match="gives scores that are not finite numbers: are its"):
        evaluate(options(emoji_dir, samples, clip=str(copy)))


def test_where_scores_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, emoji_dir: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.evaluation.evaluate.create_network", None)
    (tmp_path / "diary.csv").write_text("index,prompt\n")
    (tmp_path / "folder.csv").mkdir()
    for path, more, message in (
        ("x.json", {}, r"x\.json: expected a name that ends in \.csv"),
        ("diary.csv", {}, "exists and is no former list of repa evaluate: choose another"),
        ("folder.csv", {}, "exists and is no former list"),
        ("x.csv", {"output": tmp_path / "x.csv"}, "and --output are one file"),
        (emoji_dir / "x.csv", {}, "lies in .*prepared, which is read"),
        ("diary.csv/x.csv", {}, "cannot be written: .*Not a directory"),
        (f"{'x' * 300}.csv", {}, "cannot be written: .*File name too long"),
        ("x.csv", {"clip": "none"}, r"without the samples' prompts \(--prompts\) and a CLIP"),
    ):
        with pytest.raises(RepaError, match=rf"^--prompt-scores [^\n]*{message}[^\n]*$"):
            evaluate(options(emoji_dir, samples, prompt_scores=tmp_path / path, **more))
    assert not (emoji_dir / "x.csv").exists()
    assert not (tmp_path / "x.csv").exists()


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


@pytest.mark.parametrize("layout", ["U-ViT", "COCO"])
def test_validation_images_of_texts_are_a_reference(
    tmp_path: Path, emoji: PreparedDataset, samples: Path, clip: Path, tiny: None, layout: str
) -> None:
    """The samples' own images, as text-to-image datasets hold them: FID is 0."""
    images = emoji.images(range(COUNT)).transpose(0, 2, 3, 1)
    folder = write_uvit(tmp_path, images) if layout == "U-ViT" else prepare_coco(tmp_path, images)
    dataset = open_dataset(folder)
    assert len(dataset) == COUNT
    result = evaluate(options(folder, samples, clip=str(clip)))
    assert result is not None
    assert result["fid"] == pytest.approx(0, abs=1e-6)
    assert result["precision"] == result["recall"] == 1
    assert result["reference"]["count"] == COUNT
    assert result["clip_score"] > 0


def write_uvit(root: Path, images: np.ndarray) -> Path:
    """The validation split of U-ViT's features, with the images beside them."""
    (root / "features" / "val").mkdir(parents=True)
    np.save(root / "features" / "empty_context.npy", np.zeros((77, 768), np.float32))
    for i, image in enumerate(images):
        np.save(root / f"features/val/{i}.npy", np.zeros((8, 4, 4), np.float32))
        np.save(root / f"features/val/{i}_0.npy", np.zeros((77, 768), np.float32))
        Image.fromarray(image).save(root / f"features/val/{i}.png")
    return root / "features" / "val"


def prepare_coco(root: Path, images: np.ndarray) -> Path:
    """MS-COCO's validation split, prepared."""
    for name in ("val2014", "annotations"):
        (root / "coco" / name).mkdir(parents=True)
    names = [f"COCO_val2014_{i:012d}.jpg" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(root / "coco" / "val2014" / name, "PNG")  # without loss
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "caption": f"picture {i}"} for i in range(len(names))],
    }
    (root / "coco/annotations/captions_val2014.json").write_text(json.dumps(content))
    arguments = [f"--source={root / 'coco'}", "--split=val", f"--dest={root / 'val'}"]
    arguments += ["--resolution=32", "--autoencoder=pixel", "--num-workers=0", "--device=cpu"]
    assert main(["prepare", *arguments]) == 0
    return root / "val"
