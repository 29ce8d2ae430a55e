from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.preparing import Words
from repa.config import PrepareOptions
from repa.data import PreparedDataset
from repa.data.command import run_prepare
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]


@pytest.fixture
def folder(tmp_path: Path, write_folder: Write, mixed_files: dict[str, bytes]) -> Path:
    return write_folder(tmp_path / "pictures", mixed_files)


def options(source: object, dest: Path, **others: object) -> PrepareOptions:
    values = {"resolution": 16, "autoencoder": "pixel", "num_workers": 0, "device": "cpu"}
    return PrepareOptions.model_validate({"source": str(source), "dest": dest} | values | others)


def test_it_prints_what_was_prepared(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_prepare(options(folder, tmp_path / "out"))
    assert len(PreparedDataset(tmp_path / "out")) == 10
    expected = f"{tmp_path / 'out'}: 10 images at 16 px, 3 classes, 3 files skipped\n"
    assert capsys.readouterr().out == expected


def test_encoders_are_cached_with_the_grid_asked_for(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_prepare(
        options(
            folder, tmp_path / "out", enc_type="efficientnet-lite0", feature_grid=2, max_images=2
        )
    )
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset[0]["features.efficientnet-lite0"].shape == (4, 112)
    assert "skipped" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"enc_type": "dinov5"}, "unknown encoder 'dinov5'"),
        ({"source": "nowhere"}, "no such source: nowhere"),
        ({"autoencoder": "vqgan"}, "unknown autoencoder 'vqgan'"),
    ],
)
def test_what_is_unknown_is_an_error_before_anything_is_written(
    tmp_path: Path, folder: Path, wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(RepaError, match=message):
        run_prepare(options(**({"source": folder, "dest": tmp_path / "out"} | wrong)))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_resolution_that_the_autoencoder_cannot_give_back_is_refused(
    tmp_path: Path, folder: Path, vae_dir: Path
) -> None:
    for resolution in (1, 17):
        with pytest.raises(RepaError, match=f"--resolution {resolution} is no multiple of 2"):
            run_prepare(
                options(folder, tmp_path / "out", autoencoder=str(vae_dir), resolution=resolution)
            )
    assert not (tmp_path / "out").exists()


def test_a_dest_inside_the_source_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RepaError, match="lies inside --source"):
        run_prepare(options(folder, folder / "prepared"))
    assert not (folder / "prepared").exists()
    monkeypatch.chdir(tmp_path)
    run_prepare(options("twemoji", Path("twemoji"), max_images=1))  # a name, not a folder
    run_prepare(options("twemoji", Path("twemoji"), max_images=1))
    assert len(PreparedDataset("twemoji")) == 1


def test_what_dest_has_is_the_default(tmp_path: Path, folder: Path) -> None:
    run_prepare(options(folder, tmp_path / "out"))
    given = {"resolution": None, "autoencoder": None}
    more = {"enc_type": " efficientnet-lite0 ", "feature_grid": 2}
    run_prepare(options(folder, tmp_path / "out", **given, **more))
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.manifest.resolution == 16
    assert dataset.manifest.autoencoder.name == "pixel"
    assert set(dataset.manifest.features) == {"efficientnet-lite0"}


@pytest.mark.parametrize("given", [{"split": "val"}, {"strict": True}, {"max_images": 3}])
def test_options_of_a_source_need_one(tmp_path: Path, given: dict) -> None:
    [name] = given
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} needs --source"):
        PrepareOptions(dest=tmp_path / "out", **given)


def test_without_a_source_there_must_be_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match=r"no prepared dataset in .*out; give --source to make one"):
        run_prepare(PrepareOptions(dest=tmp_path / "out", device="cpu"))


class NotFinite:
    """A stand-in for an autoencoder or encoder with broken weights."""

    name = "broken"

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return (4, resolution, resolution)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 8, 4, 4), torch.nan)

    def to(self, device: torch.device) -> "NotFinite":
        return self

    __call__ = encode


@pytest.mark.parametrize(
    ("function", "made", "given", "message"),
    [
        (
            "create_autoencoder",
            NotFinite(),
            {},
            "the autoencoder pixel makes latents that are not finite: .* as --autoencoder",
        ),
        (
            "create_encoders",
            {"pixels": NotFinite()},
            {"enc_type": "pixels"},
            "the encoder pixels makes tokens that are not finite: .* with --encoder-weights",
        ),
    ],
)
def test_broken_weights_begin_no_dataset(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    made: object,
    given: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(f"repa.data.command.{function}", lambda *_: made)
    with pytest.raises(RepaError, match=message):
        run_prepare(options(folder, tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()


# Text


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """With a stand-in for the text encoders; which ones were made of which weights."""
    made = []

    def create_text_encoder(name: str, weights: Path | None = None) -> Words:
        made.append((name, weights))
        return Words(name=name)

    monkeypatch.setattr("repa.text.create_text_encoder", create_text_encoder)
    return made


def test_text_is_stored_at_once_or_later(
    tmp_path: Path, words: list, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_prepare(options("twemoji", out, max_images=30, text_enc_type=" clip-vit-l "))
    dataset = PreparedDataset(out)
    cut = sum(len(dataset.captions(i)[0].split()) > 4 for i in range(30))
    assert cut > 0
    summary = f"{out}: 30 images at 16 px, 9 classes, {cut} captions cut to 4 tokens\n"
    assert capsys.readouterr().out == summary
    later = {"text_enc_type": "minilm", "text_encoder_weights": tmp_path, "device": "cpu"}
    run_prepare(PrepareOptions.model_validate({"dest": out} | later))
    assert set(PreparedDataset(out).manifest.text) == {"clip-vit-l", "minilm"}
    assert words == [("clip-vit-l", None), ("minilm", tmp_path)]


def test_several_text_encoders_at_once(tmp_path: Path, words: list) -> None:
    both = {"max_images": 3, "text_enc_type": "clip-vit-l,minilm"}
    with pytest.raises(RepaError, match="weights is for one text encoder, .* names 2; add"):
        run_prepare(options("twemoji", tmp_path / "out", text_encoder_weights="w", **both))
    assert not (tmp_path / "out").exists()
    run_prepare(options("twemoji", tmp_path / "out", **both))
    assert set(PreparedDataset(tmp_path / "out").manifest.text) == {"clip-vit-l", "minilm"}


def test_text_of_a_source_without_captions_is_refused_before_weights_are_looked_for(
    tmp_path: Path, folder: Path, words: list
) -> None:
    with pytest.raises(RepaError, match="^--text-enc-type clip-vit-l: pictures has no captions"):
        run_prepare(options(folder, tmp_path / "out", text_enc_type="clip-vit-l"))
    assert not (tmp_path / "out").exists()
    assert not words


def test_an_unknown_text_encoder_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match="unknown text encoder 'clap'"):
        run_prepare(options("twemoji", tmp_path / "out", text_enc_type="clap"))
    assert not (tmp_path / "out").exists()


def test_broken_weights_of_a_text_encoder_leave_no_dataset_begun(
    tmp_path: Path, words: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other weights the same command then makes it."""
    wanted = options("twemoji", tmp_path / "out", max_images=3, text_enc_type="clip-vit-l")
    with monkeypatch.context() as broken:
        broken.setattr(Words, "fingerprint", "of broken weights")
        broken.setattr(Words, "forward", _fail)
        with pytest.raises(RepaError, match="not finite"):
            run_prepare(wanted)
    assert not (tmp_path / "out").exists()
    run_prepare(wanted)
    assert PreparedDataset(tmp_path / "out").manifest.complete


def _fail(encoder: Words, captions: list[str]) -> None:
    raise RepaError("the text encoder clip-vit-l makes tokens that are not finite")
