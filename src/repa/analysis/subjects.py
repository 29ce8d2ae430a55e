"""The checkpoints that `repa probe` and `repa align` look into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from repa.analysis.hidden_states import Pooling, hidden_states
from repa.analysis.inputs import Images
from repa.analysis.results import Row
from repa.checkpoints import (
    CheckpointState,
    lacks_null_context,
    load_model,
    locate,
    locate_all,
    objective_of,
    run_of,
)
from repa.checkpoints.checkpoint import open_checkpoint
from repa.config import AlignOptions, Precision, ProbeOptions, SubjectOptions
from repa.devices import pick_precision
from repa.diffusion import Objective
from repa.encoders import check_encoder_names
from repa.errors import RepaError
from repa.models import Backbone, MMDiT
from repa.processes import gather_rows
from repa.sampling.text_encoder import fill_null_context, open_text_encoder, text_encoder_name
from repa.weights import fingerprint


@dataclass(frozen=True)
class Subject:
    """A checkpoint's model, ready to be looked into.

    Attributes:
        row: what every row about it says.
        model: on the device.
        depths: blocks after which to look.
        objective: that it was trained for.
        processes: this process and the others.
        precision: of the model's evaluations.
        batch_size: images at a time.
    """

    row: Row
    model: Backbone
    depths: Sequence[int]
    objective: Objective
    processes: PartialState
    precision: Precision
    batch_size: int

    def rows(self, time: float) -> list[Row]:
        """What the rows about each depth say, before anything is found out."""
        return [self.row | {"depth": depth, "time": time} for depth in self.depths]

    def progress(self, times: Sequence[float]) -> Iterable[float]:
        """The times once each, with a progress bar on the first process."""
        title = f"{self.row['name']}, step {self.row['step']}"
        once = list(dict.fromkeys(times))
        return tqdm(once, title, unit="time", disable=not self.processes.is_main_process)

    def states(
        self, images: Images, depths: Sequence[int], time: float, pooling: Pooling = "mean"
    ) -> Tensor:
        """Hidden states (L, N, D) of the images, on all processes; each computes a share.

        Raises:
            RepaError: if the dataset does not fit the model, or its states are not finite.
        """
        own = hidden_states(
            self.model, images.dataset, images.share(self.processes), depths, self.objective,
            time, self.batch_size, self.precision, pooling,
        )  # fmt: skip
        states = gather_rows(own.transpose(0, 1)).transpose(0, 1)  # (L, N, D)
        if not states.isfinite().all():
            which = self.row["checkpoint"] or self.row["name"]
            raise RepaError(
                f"{which}: hidden states are not finite: the weights are broken, or "
                "--mixed-precision is too coarse for them"
            )
        return states.contiguous()


def find_checkpoints(options: SubjectOptions, processes: PartialState) -> list[Path]:
    """The checkpoints that `--ckpt` names, in its order, once each however they are named.

    Raises:
        RepaError: if there is none of a name.
    """
    with processes.main_process_first():  # the others wait while one downloads the released one
        found = [
            checkpoint.resolve()  # rows are found again from wherever the next call is made
            for path in options.ckpt or ()
            for checkpoint in (locate_all(path) if options.every_checkpoint else [locate(path)])
        ]
    return list(dict.fromkeys(found))


def open_subjects(
    checkpoints: Sequence[Path], options: ProbeOptions | AlignOptions, processes: PartialState
) -> Iterator[Subject]:
    """Each checkpoint's model in turn: one is in memory at a time.

    Args:
        checkpoints: as `find_checkpoints` found them.
        options: which weights, depths and precision.
        processes: this process and the others.

    Raises:
        RepaError: if one is damaged, has not the depths that are asked for, or the empty text that
            it is to be told cannot be encoded.
    """
    precision = pick_precision(options.mixed_precision, processes.device)
    for path in checkpoints:
        model, state = load_model(path, options.raw_weights, options.encoder_depth, options.model)
        depths = list(dict.fromkeys(options.depths or range(1, model.depth + 1)))
        if max(depths) > model.depth:
            raise RepaError(f"--depths {max(depths)}: {path} has {model.depth} blocks")
        objective = objective_of(model, state, options.path_type, options.prediction)
        if isinstance(model, MMDiT):
            _know_the_empty_text(model, state, options, processes)
        yield Subject(
            row=_row(path, model, state, options.raw_weights) | {"path_type": objective.path_type},
            model=model.to(processes.device),
            depths=depths,
            objective=objective,
            processes=processes,
            precision=precision,
            batch_size=options.batch_size,
        )


def _know_the_empty_text(
    model: MMDiT, state: CheckpointState, options: SubjectOptions, processes: PartialState
) -> None:
    """A model of the release, whose file has no tokens of the empty text, has them encoded."""
    text_encoder_name(options, state)  # what contradicts the checkpoint is said of all
    if lacks_null_context(state):
        encoder = open_text_encoder(options, model, state, processes)
        fill_null_context(model, encoder([""])[0])


def encoder_names(options: SubjectOptions, checkpoints: Sequence[Path]) -> list[str]:
    """The encoders to compare with: as asked for, else those the checkpoints were aligned to.

    Raises:
        RepaError: if one is unknown, or a checkpoint is damaged.
    """
    if options.enc_type is not None:
        return check_encoder_names(options.enc_type)
    names: dict[str, None] = {}
    for path in checkpoints:
        checkpoint = open_checkpoint(
            path, options.encoder_depth, options.model, with_optimizer=False
        )
        names |= dict.fromkeys(_aligned_to(checkpoint.state))
    return list(names)


def _row(path: Path, model: Backbone, state: CheckpointState, raw: bool) -> Row:
    run = run_of(path)
    aligned = _aligned_to(state)
    return {
        "subject": "model",
        "name": path.stem if run is None else run.resolve().name,
        "run": None if run is None else str(run),
        "checkpoint": str(path),
        "model": state.model,
        "step": state.step,
        "weights": "raw" if raw else "ema",
        "fingerprint": fingerprint(model.state_dict()),
        "encoder_depth": state.options.get("encoder_depth") if aligned else None,
    }


def _aligned_to(state: CheckpointState) -> list[str]:
    """The encoders that a model was aligned to, if its checkpoint says so."""
    return check_encoder_names(state.options.get("enc_type") or "none")
