import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation.disk import full_disk
from repa.checkpoints import (
    CheckpointState,
    find_checkpoint,
    list_checkpoints,
    load_model,
    read_state,
)
from repa.checkpoints.checksums import CHECKSUMS, write_checksums
from repa.checkpoints.folder import check_checkpoint, write_folder
from repa.checkpoints.state import Progress
from repa.data.format import AutoencoderRecord
from repa.diffusion import FlowMatching
from repa.errors import RepaError
from repa.models import create_model
from repa.training import checkpoint, setup, train
from repa.training.checkpoint import Checkpoints, checkpoint_parts, restore
from repa.training.ema import EMA
from repa.training.module import TrainingModule

ARGUMENTS = {"input_size": 8, "in_channels": 3, "num_classes": 3}


def state(step: int) -> CheckpointState:
    return CheckpointState(
        step=step,
        model="SiT-Ti/4",
        model_arguments=ARGUMENTS,
        autoencoder=AutoencoderRecord(name="pixel", latent_shape=(3, 8, 8)),
        resolution=8,
        classes=["a", "b", "c"],
        options={"path_type": "linear"},
        scaler=None,
        versions={},
    )


def training_module() -> TrainingModule:
    model = create_model("SiT-Ti/4", **ARGUMENTS)
    return TrainingModule(model, FlowMatching(), [8], encoder_depth=1, projector_dim=16)


@pytest.fixture
def saved(tmp_path: Path):
    """A run with one checkpoint at step 7, after one optimizer step."""
    torch.manual_seed(0)
    module, ema = training_module(), create_model("SiT-Ti/4", **ARGUMENTS)
    optimizer = torch.optim.AdamW(module.parameters())
    sum(p.square().sum() for p in module.parameters()).backward()
    optimizer.step()
    folder = tmp_path / "checkpoints" / "0000007"
    write_folder(folder, state(7), checkpoint_parts(module, ema, optimizer))
    return tmp_path, module, ema, optimizer


def test_weights_come_back_exactly(saved) -> None:
    run, module, ema, _ = saved
    for raw, expected in ((True, module.model), (False, ema)):
        loaded, found = load_model(run, raw_weights=raw)
        assert found == state(7)
        assert not loaded.training
        for key, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor), key


def test_everything_that_resuming_needs_comes_back_exactly(saved) -> None:
    run, module, ema, optimizer = saved
    fresh, fresh_ema = training_module(), create_model("SiT-Ti/4", **ARGUMENTS)
    fresh_optimizer = torch.optim.AdamW(fresh.parameters())
    restore(find_checkpoint(run), fresh, fresh_ema, fresh_optimizer)
    for new, old in ((fresh, module), (fresh_ema, ema)):
        for key, tensor in old.state_dict().items():
            assert torch.equal(new.state_dict()[key], tensor), key
    old, new = optimizer.state_dict()["state"], fresh_optimizer.state_dict()["state"]
    assert old.keys() == new.keys()
    for index, entries in old.items():
        for key, tensor in entries.items():
            assert torch.equal(new[index][key], tensor), (index, key)


def test_there_is_no_pickle(saved) -> None:
    names = {path.name for path in (saved[0] / "checkpoints" / "0000007").iterdir()}
    parts = ("model", "ema", "heads", "optimizer")
    assert names == {"state.json", "SHA256SUMS", *(f"{part}.safetensors" for part in parts)}


def test_newest_whole_checkpoint_is_found(saved) -> None:
    run = saved[0]
    folder = run / "checkpoints"
    (folder / "0000009.partial").mkdir()  # a killed write
    (folder / "0000009.partial" / "state.json").write_text("{}")
    (folder / "0000008").mkdir()  # someone's empty folder
    assert find_checkpoint(run) == folder / "0000007"
    assert find_checkpoint(folder / "0000007") == folder / "0000007"
    (folder / "0000007").rename(folder / "0000010")
    (folder / "0000002").mkdir()
    (folder / "0000002" / "state.json").write_text("{}")
    assert [p.name for p in list_checkpoints(run)] == ["0000002", "0000010"]


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match="no checkpoint in"):
        load_model(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_a_damaged_checkpoint(saved, size: int) -> None:
    run = saved[0]
    file = run / "checkpoints" / "0000007" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RepaError, match=r"damaged checkpoint.*ema\.safetensors"):
        load_model(run)


def test_a_missing_file_is_a_damaged_checkpoint(saved) -> None:
    run = saved[0]
    (run / "checkpoints" / "0000007" / "ema.safetensors").unlink()
    with pytest.raises(RepaError, match="damaged checkpoint"):
        load_model(run)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": -1}'])
def test_a_broken_state_file_is_a_damaged_checkpoint(saved, text: str) -> None:
    run = saved[0]
    (run / "checkpoints" / "0000007" / "state.json").write_text(text)
    with pytest.raises(RepaError, match="damaged checkpoint") as caught:
        load_model(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_a_checkpoint_without_all_parts_is_not_continued(saved, part: str) -> None:
    run, module, ema, optimizer = saved
    (run / "checkpoints" / "0000007" / f"{part}.safetensors").unlink()
    message = rf"0000007 cannot be continued from: it has no {part}\.safetensors"
    with pytest.raises(RepaError, match=message):
        restore(find_checkpoint(run), module, ema, optimizer)


def test_a_checkpoint_without_raw_weights_says_so(saved) -> None:
    folder = saved[0] / "checkpoints" / "0000007"
    (folder / "model.safetensors").unlink()
    load_model(folder)
    with pytest.raises(RepaError, match=r"--raw-weights: .*0000007 has only averaged weights"):
        load_model(folder, raw_weights=True)


def test_arguments_that_no_model_takes_are_a_damaged_checkpoint(saved) -> None:
    file = saved[0] / "checkpoints" / "0000007" / "state.json"
    content = json.loads(file.read_text())
    content["model_arguments"]["wings"] = 2
    file.write_text(json.dumps(content))
    with pytest.raises(RepaError, match=r"damaged checkpoint .*wings"):
        load_model(saved[0])


def test_the_model_asked_for_is_checked(saved) -> None:
    assert load_model(saved[0], model="SiT-Ti/4")[1].step == 7
    with pytest.raises(RepaError, match=r"--model SiT-Ti/2: .* holds SiT-Ti/4"):
        load_model(saved[0], model="SiT-Ti/2")


def test_a_name_of_the_published_command_lines_finds_the_folder(saved) -> None:
    assert load_model(saved[0] / "checkpoints" / "0000007.pt")[1].step == 7


def test_weights_of_another_shape_do_not_fit(saved) -> None:
    run = saved[0]
    file = run / "checkpoints" / "0000007" / "state.json"
    content = json.loads(file.read_text())
    content["model_arguments"]["num_classes"] = 4
    file.write_text(json.dumps(content))
    with pytest.raises(RepaError, match="does not fit.*embedding_table"):
        load_model(run)


def change(folder: Path, part: str, update: Callable[[dict], object]) -> None:
    """Writes a part anew, and the checksums."""
    tensors = load_file(folder / f"{part}.safetensors")
    update(tensors)
    save_file(tensors, folder / f"{part}.safetensors")
    write_checksums(folder)


def test_moments_of_no_weight_are_refused(saved) -> None:
    run, module, ema, optimizer = saved
    folder = find_checkpoint(run)
    change(folder, "optimizer", lambda t: t.update({"model.wings.exp_avg": torch.ones(2)}))
    with pytest.raises(RepaError, match=r"the optimizer's 'model.wings' is not of this model$"):
        restore(folder, module, ema, optimizer)


def test_heads_of_another_model_do_not_fit(saved) -> None:
    run, module, ema, optimizer = saved
    folder = find_checkpoint(run)
    change(folder, "heads", dict.clear)
    with pytest.raises(RepaError, match=r"heads\.safetensors does not fit: Missing key\(s\)"):
        restore(folder, module, ema, optimizer)


def test_broken_bytes_without_checksums_are_a_damaged_checkpoint(saved) -> None:
    """As older versions wrote them; a run begins with those that pass."""
    run, module, ema, optimizer = saved
    folder = find_checkpoint(run)
    (folder / CHECKSUMS).unlink()
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    message = r"^damaged checkpoint: .*model\.safetensors: "
    with pytest.raises(RepaError, match=message):
        restore(folder, module, ema, optimizer)
    with pytest.raises(RepaError, match=message):
        check_checkpoint(folder)


def test_a_state_that_cannot_be_read_is_a_damaged_checkpoint(saved) -> None:
    folder = find_checkpoint(saved[0])
    (folder / "state.json").unlink()
    with pytest.raises(RepaError, match=r"^damaged checkpoint .*0000007: .*No such file"):
        read_state(folder)


def test_a_state_that_names_a_far_larger_model_is_refused_before_it_is_built(saved) -> None:
    file = find_checkpoint(saved[0]) / "state.json"
    content = json.loads(file.read_text())
    content["model_arguments"]["num_classes"] = 10**12
    file.write_text(json.dumps(content))
    message = r"damaged checkpoint .*: its weights hold \d+ numbers, the model that its state names"
    with pytest.raises(RepaError, match=message):
        load_model(file.parent)


def test_a_full_disk_is_said_with_what_helps(saved, options) -> None:
    run, module, ema, optimizer = saved
    asked = options()
    checkpoints = Checkpoints(
        run, asked, state(9), setup.start(asked), module, EMA(ema, 0.9), optimizer
    )
    message = (
        r"^the checkpoint \S+0000009 cannot be written: [^\n]+\. Those before it are whole: make "
        r"room \(--keep-last removes old ones\), and the same command goes on from the newest$"
    )
    with full_disk(), pytest.raises(RepaError, match=message):
        checkpoints.save(9, Progress(written=8))
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["0000007"]
    check_checkpoint(find_checkpoint(run))


def test_an_old_checkpoint_that_cannot_be_removed_does_not_end_the_run(
    options, monkeypatch, capsys
) -> None:
    """As on a network drive, where somebody reads it."""

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(39, "Directory not empty", str(path))

    monkeypatch.setattr("repa.training.rotation.shutil.rmtree", busy)
    run = train(options(enc_type="none", keep_last=1))
    assert [folder.name for folder in list_checkpoints(run)] == ["0000004"]
    warning = r"warning: \S+0000002\.partial cannot be removed: Directory not empty"
    assert re.search(warning, capsys.readouterr().err)


def test_the_log_is_on_the_disk_before_a_checkpoint_that_goes_on_from_it(
    options, monkeypatch
) -> None:
    events: list[str] = []
    write = checkpoint.write_folder

    def written(folder: Path, *arguments: object) -> None:
        events.append(folder.name)
        write(folder, *arguments)

    monkeypatch.setattr(checkpoint, "sync", lambda path: events.append(path.name))
    monkeypatch.setattr(checkpoint, "write_folder", written)
    train(options(enc_type="none", max_train_steps=2))
    assert events.index("metrics.jsonl") < events.index("0000002")
