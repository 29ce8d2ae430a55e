"""The ImageNet path at small scale: KL autoencoder, latents, encoder in the loop, decoding."""

from pathlib import Path

import numpy as np

from repa.cli import main
from repa.data import PreparedDataset
from repa.files import read_json_lines


def test_prepare_train_resume_sample_evaluate(vae: Path, tmp_path: Path, capsys) -> None:
    data, runs, out = tmp_path / "data", tmp_path / "runs", tmp_path / "samples" / "run"
    prepare = ["prepare", "--source=twemoji", f"--dest={data}", "--resolution=64"]
    prepare += [f"--autoencoder={vae}", "--max-images=24", "--num-workers=0", "--device=cpu"]
    assert main(prepare) == 0
    dataset = PreparedDataset(data)
    assert dataset[0]["latent"].shape == (8, 8, 8)  # mean and deviation of 4 channels
    assert dataset.manifest.autoencoder.scale == 0.18215

    train = ["train", f"--data-dir={data}", f"--output-dir={runs}", "--exp-name=run"]
    train += ["--model=SiT-Ti/2", "--enc-type=efficientnet-lite0,efficientnet-lite1"]
    train += ["--encoder-depth=2", "--projector-dim=32", "--batch-size=8", "--sampling-steps=2"]
    train += ["--logging-steps=1", "--report-to=none", "--device=cpu", "--resolution=64"]
    assert main([*train, "--max-train-steps=2"]) == 0
    assert main([*train, "--max-train-steps=4"]) == 0
    lines = read_json_lines(runs / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["alignment_loss"] < lines[0]["alignment_loss"]
    assert len(list((runs / "run" / "previews").iterdir())) == 2

    sample = ["sample", f"--ckpt={runs / 'run'}", f"--sample-dir={out}", "--num-fid-samples=5"]
    sample += ["--mode=sde", "--num-steps=4", "--cfg-scale=1.8", "--guidance-high=0.7"]
    assert main([*sample, "--device=cpu"]) == 0
    with np.load(out.with_suffix(".npz")) as archive:
        assert archive["arr_0"].shape == (5, 64, 64, 3)

    evaluate = ["evaluate", f"--samples={out}.npz", f"--reference={data}", "--device=cpu"]
    evaluate += ["--network=efficientnet-lite2"]
    assert main(evaluate) == 0
    assert "frechet_distance" in capsys.readouterr().out


def test_without_the_autoencoder_training_goes_on_and_previews_do_not(
    vae: Path, tmp_path: Path, capsys
) -> None:
    data, copy = tmp_path / "data", tmp_path / "vae"
    copy.mkdir()
    for file in vae.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    prepare = ["prepare", "--source=twemoji", f"--dest={data}", "--resolution=64"]
    prepare += [f"--autoencoder={copy}", "--max-images=8", "--num-workers=0", "--device=cpu"]
    assert main(prepare) == 0
    for file in copy.iterdir():
        file.unlink()
    train = ["train", f"--data-dir={data}", f"--output-dir={tmp_path}", "--exp-name=run"]
    train += ["--model=SiT-Ti/2", "--enc-type=none", "--batch-size=4", "--sampling-steps=1"]
    train += ["--max-train-steps=2", "--report-to=none", "--device=cpu"]
    assert main(train) == 0
    assert capsys.readouterr().err.count("warning: no previews") == 1
    assert (tmp_path / "run" / "checkpoints" / "0000002").exists()
    assert not (tmp_path / "run" / "previews").exists()
