"""Where a run goes on, and what becomes of checkpoints that it does not go on from."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from repa.checkpoints import list_checkpoints, read_state
from repa.checkpoints.folder import write_state
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training import resume, train


def steps(run: Path) -> list[int]:
    return [int(path.name) for path in list_checkpoints(run)]


@pytest.fixture
def plain(options):
    """Options of a run without alignment, of a second."""
    return lambda **changes: options(**({"enc_type": "none"} | changes))


def test_a_command_that_went_back_once_goes_on(plain, capsys) -> None:
    """Else each start of a job that is queued again would begin at the same step."""
    run = train(plain())
    back = {"resume_step": 2, "learning_rate": 1e-4, "max_train_steps": 8}
    train(plain(**back))
    assert steps(run) == [2, 4, 6, 8]
    written = (run / "checkpoints" / "0000006" / "state.json").stat().st_mtime_ns
    (run / "checkpoints" / "0000008").rename(run / "killed")
    train(plain(**back, keep_last=None))
    assert "--resume-step 2: this command went back before" in capsys.readouterr().out
    assert steps(run) == [2, 4, 6, 8]
    assert (run / "checkpoints" / "0000006" / "state.json").stat().st_mtime_ns == written
    assert [line["step"] for line in read_json_lines(run / "starts.jsonl")] == [0, 2, 6]


def test_a_command_goes_on_when_the_step_it_went_back_to_is_rotated_away(plain) -> None:
    run = train(plain())
    back = {"resume_step": 2, "max_train_steps": 6, "keep_last": 1}
    train(plain(**back))
    assert steps(run) == [6]
    train(plain(**back))
    assert steps(run) == [6]


def test_other_options_go_back_again_and_no_course_of_the_run_is_lost(plain) -> None:
    run = train(plain())
    for rate in (1e-4, 1e-5):
        train(plain(resume_step=2, learning_rate=rate))
    rates = {
        path.name: read_state(path).options["learning_rate"]
        for path in (run / "checkpoints").iterdir()
    }
    assert rates == {
        "0000002": 1e-3,
        "0000004": 1e-5,
        "0000004.aside": 1e-3,
        "0000004.aside2": 1e-4,
    }


def test_a_damaged_later_checkpoint_does_not_hide_that_a_command_went_back(plain, capsys) -> None:
    run = train(plain())
    back = {"resume_step": 2, "max_train_steps": 6, "learning_rate": 1e-4}
    train(plain(**back))
    (run / "checkpoints" / "0000006" / "state.json").write_text("{")
    train(plain(**back))
    assert "going on from" in capsys.readouterr().err
    assert (run / "checkpoints" / "0000006.damaged").exists()
    assert read_json_lines(run / "starts.jsonl")[-1]["step"] == 4


def test_what_a_killed_process_left_goes_with_resume_step_too(plain) -> None:
    run = train(plain())
    left = run / "checkpoints" / ".0000003.partial"
    left.mkdir()
    train(plain(resume_step=2))
    assert not left.exists()


def test_a_checkpoint_that_cannot_be_renamed_is_a_clear_error(plain, monkeypatch) -> None:
    run = train(plain())
    (run / "checkpoints" / "0000004" / "model.safetensors").write_bytes(b"else")

    def refuse(self: Path, place: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    expected = r"0000004 cannot be renamed 0000004\.damaged: Permission denied"
    with pytest.raises(RepaError, match=expected):
        train(plain())
    with pytest.raises(RepaError, match=r"0000004 cannot be renamed 0000004\.aside: Permission"):
        train(plain(resume_step=2))


def test_other_images_than_before_are_told(plain, capsys) -> None:
    run = train(plain(max_train_steps=2))
    [checkpoint] = list_checkpoints(run)
    (checkpoint / "SHA256SUMS").unlink()
    for dataset, warned in (("", False), ("0" * 64, True)):
        write_state(checkpoint, read_state(checkpoint).model_copy(update={"dataset": dataset}))
        train(plain(max_train_steps=2))
        told = capsys.readouterr().err
        assert ("was trained on other images than" in told) is warned
    train(plain(max_train_steps=3))  # warned once more, and then it is known
    capsys.readouterr()
    train(plain(max_train_steps=3))
    assert "other images" not in capsys.readouterr().err


def test_images_are_known_wherever_they_lie(plain, emoji_dir: Path, tmp_path: Path, capsys) -> None:
    train(plain(max_train_steps=2))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(emoji_dir)
    train(plain(max_train_steps=3, data_dir=elsewhere))
    assert "other images" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes", [{"batch_size": 16}, {"gradient_accumulation_steps": 2}], ids=lambda c: next(iter(c))
)
def test_images_a_step_are_kept(plain, changes: dict[str, int]) -> None:
    train(plain(max_train_steps=2))
    message = "different: --batch-size times --gradient-accumulation-steps, 8 there"
    with pytest.raises(RepaError, match=message):
        train(plain(**changes))


def test_half_the_batch_twice_as_often_goes_on(plain) -> None:
    """With what memory there is now: the images of each step are the same."""
    losses = {}
    for name, changes in (("whole", {}), ("halves", {"batch_size": 4, "accumulated": 2})):
        train(plain(exp_name=name, max_train_steps=2))
        accumulated = changes.pop("accumulated", 1)
        run = train(plain(exp_name=name, gradient_accumulation_steps=accumulated, **changes))
        losses[name] = [line["loss"] for line in read_json_lines(run / "metrics.jsonl")]
    assert losses["halves"] == pytest.approx(losses["whole"], abs=1e-5)


def test_one_process_finds_it_for_all() -> None:
    assert resume._on_main(Accelerator(cpu=True), lambda: 5) == 5
