"""A checkpoint of any format, opened: its state and its tensors by part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repa.checkpoints.download import released_checkpoint
from repa.checkpoints.families import family_of
from repa.checkpoints.folder import Parts, find_checkpoint, folder_parts, list_checkpoints
from repa.checkpoints.pretrained import is_pretrained, pretrained_parts, pretrained_state
from repa.checkpoints.released import open_released
from repa.checkpoints.state import CheckpointState, ReleasedRecord, read_released_record, read_state
from repa.errors import RepaError

RELEASED_NAME = Path("released")  # what --ckpt calls the release's published checkpoint
FILE_ENDINGS = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are read when they are asked for.

    Attributes:
        path: where it lies.
        state: what is known of it, as our checkpoints say it.
        parts: any of `model`, `ema`, `heads`, `ema_heads`, `optimizer`, with our names.
        released: what only the release's files say, if it comes from one.
    """

    path: Path
    state: CheckpointState
    parts: Parts
    released: ReleasedRecord | None = None

    def weights(self, raw: bool) -> dict[str, Tensor]:
        """The backbone's averaged weights, or the raw ones.

        Raises:
            RepaError: if it has only the others.
        """
        if raw and "model" not in self.parts:
            raise RepaError(f"--raw-weights: {self.path} has only averaged weights")
        if not raw and "ema" not in self.parts:
            raise RepaError(
                f"damaged checkpoint: {self.path} has no averaged weights"
                + (" (--raw-weights takes the raw ones)" if "model" in self.parts else "")
            )
        return dict(self.parts["model" if raw else "ema"])


def open_checkpoint(
    path: Path,
    encoder_depth: int | None = None,
    model: str | None = None,
    with_optimizer: bool = True,
) -> Checkpoint:
    """Opens whatever `path` names; for the arguments see `repa.checkpoints.load_model`.

    `with_optimizer=False` does not look at the optimizer in a file, whatever it is.

    Raises:
        RepaError: if there is no checkpoint, or it is damaged, unsafe or of another model.
    """
    if model is not None:
        family_of(model)  # a wrong name is told before anything else
    place = locate(path)
    if place.is_file():
        return Checkpoint(place, *open_released(place, encoder_depth, model, with_optimizer))
    if is_pretrained(place):
        checkpoint = Checkpoint(place, pretrained_state(place), pretrained_parts(place))
    else:
        checkpoint = Checkpoint(
            place, read_state(place), folder_parts(place), read_released_record(place)
        )
    if model not in (None, checkpoint.state.model):
        raise RepaError(f"--model {model}: {place} holds {checkpoint.state.model}")
    return checkpoint


def locate(path: Path) -> Path:
    """The checkpoint's folder or file that a path names, with or without its ending.

    The published checkpoint is downloaded if it is not there; one process may do that at a time.

    Raises:
        RepaError: if there is none.
    """
    if path == RELEASED_NAME and not path.exists():
        return released_checkpoint()
    if path.is_file():
        return path
    if not path.exists():
        # The published command lines say 0400000.pt where training here writes a folder 0400000.
        without = path.with_suffix("") if path.suffix in FILE_ENDINGS else path
        candidates = [without, *(path.with_name(path.name + ending) for ending in FILE_ENDINGS)]
        path = next((c for c in candidates if c.exists()), path)
    if path.is_file() or is_pretrained(path):
        return path
    found = _newest(path)
    if found is None:
        raise RepaError(
            f"no checkpoint in {path} (--ckpt takes a run's folder, a checkpoint's folder or a "
            f"file: {', '.join(FILE_ENDINGS)})"
        )
    return found


def locate_all(path: Path) -> list[Path]:
    """All checkpoints of the run that a path names, oldest first; of another path, its own one.

    Raises:
        RepaError: if there is none.
    """
    of_run = {int(p.stem): p for p in _released_files(path)}
    of_run |= {int(p.name): p for p in list_checkpoints(path)}  # ours before the release's
    return [of_run[step] for step in sorted(of_run)] or [locate(path)]


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a located checkpoint is of, if it lies in one."""
    folder = checkpoint.parent
    in_run = folder.name == "checkpoints" and checkpoint.stem.isdigit()
    return folder.parent if in_run else None


def _newest(path: Path) -> Path | None:
    """A checkpoint's folder itself; of a run the newest, ours before the release's of a step."""
    ours = find_checkpoint(path)
    if ours == path:
        return path
    files = _released_files(path)
    found = files if ours is None else [*files, ours]
    return max(found, key=lambda p: (int(p.stem), p.is_dir()), default=None)


def _released_files(run: Path) -> list[Path]:
    """Checkpoints of the release's form in a run's folder."""
    return [p for p in (run / "checkpoints").glob("*.pt") if p.stem.isdigit()]
