"""What a run's folder says of its starts, to trackers too."""

import shutil

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repa.training import train


def test_tensorboard_forgets_what_a_killed_run_logged_after_its_checkpoint(options) -> None:
    values = {"enc_type": "none", "report_to": "tensorboard"}
    run = train(options(**values))
    shutil.rmtree(run / "checkpoints" / "0000004")
    train(options(**values))
    events = EventAccumulator(str(run / "logs" / "repa"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
