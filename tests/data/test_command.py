from collections.abc import Callable
from pathlib import Path

import pytest

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
