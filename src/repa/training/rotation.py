"""Which checkpoints of a run stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from repa.checkpoints import list_checkpoints
from repa.checkpoints.folder import PARTIAL


def remove_old(run: Path, keep_last: int | None, keep_every: int | None) -> None:
    """Removes checkpoints but the newest ones and those of every so many steps.

    Args:
        run: the run's folder.
        keep_last: how many of the newest stay; None keeps all.
        keep_every: those whose step is a multiple of it stay too.
    """
    if keep_last is None:
        return
    for folder in list_checkpoints(run)[:-keep_last]:
        if keep_every is None or int(folder.name) % keep_every:
            leaving = folder.with_name(f".{folder.name}{PARTIAL}")
            shutil.rmtree(leaving, ignore_errors=True)
            folder.rename(leaving)  # at once: half a checkpoint has no name
            shutil.rmtree(leaving)


def remove_unfinished(run: Path) -> None:
    """Removes what a killed process left half written or half removed."""
    for folder in (run / "checkpoints").glob(f".*{PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)
