"""What the model predicts: velocity, noise or data, of flows and of DDPM."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from repa.checkpoints import load_model, objective_of
from repa.cli import main
from repa.config import TrainOptions
from repa.diffusion import DDPM, FlowMatching
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.models import create_model
from repa.training import train
from repa.training.setup import build_objective


@pytest.mark.parametrize("prediction", ["eps", "x"])
def test_a_flow_learns_and_draws_from_it(options, tmp_path: Path, prediction: str) -> None:
    run = train(options(prediction=prediction, enc_type="none", max_train_steps=20))
    losses = [line["denoising_loss"] for line in read_json_lines(run / "metrics.jsonl")]
    assert np.mean(losses[-4:]) < losses[0] - 0.1
    model, state = load_model(run)
    objective = objective_of(model, state, None)
    assert isinstance(objective, FlowMatching)
    assert objective.prediction == prediction
    drawn = {}
    for mode in ("ode", "sde"):
        words = ["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / mode}", "--num-steps=4"]
        assert main([*words, f"--mode={mode}", "--num-fid-samples=2", "--device=cpu"]) == 0
        with np.load(tmp_path / f"{mode}.npz") as archive:
            drawn[mode] = archive["arr_0"]
        assert drawn[mode].std() > 10  # not all of one gray
    assert not np.array_equal(drawn["ode"], drawn["sde"])
    probe = ["probe", f"--ckpt={run}", f"--data-dir={options().data_dir}", "--times=0.5"]
    assert main([*probe, f"--output-dir={tmp_path / 'analysis'}", "--device=cpu"]) == 0


def test_it_decides_on_the_samples(options, tmp_path: Path) -> None:
    """The same weights, read as velocity, noise and data, draw three different images."""
    run = train(options(enc_type="none", max_train_steps=2))
    model, state = load_model(run)
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def predict(x, t, time):
        return model(x.float(), t.float().expand(2), torch.zeros(2, dtype=torch.int64)).double()

    with torch.no_grad():
        samples = []
        for prediction in ("v", "eps", "x"):
            told = state.model_copy(update={"options": state.options | {"prediction": prediction}})
            objective = objective_of(model, told, None)
            samples.append(objective.sample(predict, noise, None, "ode", 5))
    assert (samples[0] - samples[1]).abs().mean() > 0.1
    assert (samples[0] - samples[2]).abs().mean() > 0.1


def test_weights_alone_may_be_told_what_they_predict(options, tmp_path: Path, capsys) -> None:
    run = train(options(enc_type="none", max_train_steps=2, prediction="eps", path_type="cosine"))
    file = run / "checkpoints" / "0000002" / "ema.safetensors"
    words = ["sample", "--num-steps=4", "--num-fid-samples=2", "--device=cpu"]
    told = ["--prediction=eps", "--path-type=cosine"]
    drawn = []
    for name, more in (("run", []), ("alone", told), ("untold", [])):
        ckpt = run if name == "run" else file
        assert main([*words, f"--ckpt={ckpt}", f"--sample-dir={tmp_path / name}", *more]) == 0
        with np.load(tmp_path / f"{name}.npz") as archive:
            drawn.append(archive["arr_0"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert main([*words, f"--ckpt={run}", f"--sample-dir={tmp_path / 'b'}", "--prediction=x"]) == 2
    assert "--prediction x: the checkpoint was trained with eps" in capsys.readouterr().err


def test_the_options_reach_the_objective(options) -> None:
    chosen = {"path_type": "cosine", "prediction": "x", "weighting": "lognormal"}
    objective = build_objective(options(**chosen), create_model("SiT-Ti/8", input_size=32))
    assert isinstance(objective, FlowMatching)
    assert {name: getattr(objective, name) for name in chosen} == chosen
    assert isinstance(build_objective(options(model="DiT-Ti/8"), create_model("DiT-Ti/8")), DDPM)


def test_a_run_keeps_its_prediction(options) -> None:
    train(options(max_train_steps=2, prediction="x"))
    with pytest.raises(RepaError, match=r"is of another run \(different: --prediction\)"):
        train(options())


def test_the_release_samples_velocities_alone(options, tmp_path: Path, capsys) -> None:
    run = train(options(enc_type="none", max_train_steps=2, prediction="eps"))
    words = ["convert", f"--ckpt={run}", f"--dest={tmp_path / 'a.pt'}", "--to=released"]
    assert main(words) == 2
    assert "it predicts eps (--prediction), and the release" in capsys.readouterr().err


def test_a_checkpoint_that_names_another_is_damaged(options, capsys) -> None:
    run = train(options(enc_type="none", max_train_steps=2))
    file = run / "checkpoints" / "0000002" / "state.json"
    state = json.loads(file.read_text())
    state["options"]["prediction"] = "score"
    file.write_text(json.dumps(state))
    with pytest.raises(RepaError, match="prediction is 'score', expected v or eps or x"):
        load_model(run)


class TestDiT:
    def test_predicts_noise_also_in_the_published_command_line(self, options) -> None:
        for given in ({}, {"prediction": "v"}, {"prediction": "eps"}):
            assert options(model="DiT-Ti/8", **given).prediction == "eps"
        assert options().prediction == "v"

    @pytest.mark.parametrize(
        "given", [{"prediction": "x"}, {"path_type": "cosine"}, {"weighting": "lognormal"}]
    )
    def test_has_its_own_process(self, options, given: dict[str, str]) -> None:
        [(name, value)] = given.items()
        message = rf"--{name.replace('_', '-')} {value}: only flow-based .* leave it out for DiT"
        with pytest.raises(ValidationError, match=message):
            options(model="DiT-Ti/8", **given)
        assert getattr(options(**given), name) == value

    def test_recorded_options_repeat_the_run(self, options) -> None:
        recorded = options(model="DiT-Ti/8").model_dump(mode="json")
        assert TrainOptions.model_validate(recorded).model_dump(mode="json") == recorded

    def test_an_unfit_evaluation_is_refused_before_the_first_step(self, options) -> None:
        unfit = {"eval_mode": "sde"}, {"eval_num_steps": 1001}
        for given in unfit:
            with pytest.raises(RepaError, match=r"--eval-mode sde|--eval-num-steps 1001"):
                train(options(model="DiT-Ti/8", eval_every=2, eval_samples=8, **given,
                              eval_network="efficientnet-lite0"))  # fmt: skip

    def test_its_objective_is_ddpm_whatever_is_said_of_paths(self, options) -> None:
        run = train(options(model="DiT-Ti/8", max_train_steps=1, checkpointing_steps=1))
        model, state = load_model(run)
        assert isinstance(objective_of(model, state, "linear"), DDPM)
        with pytest.raises(RepaError, match="--path-type cosine: DiT-Ti/8 has no such choice"):
            objective_of(model, state, "cosine")
