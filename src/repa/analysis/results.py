"""The results of `repa probe` and `repa align` on disk: rows that a later call adds to.

    DIR/KIND.json    {"kind", "settings", "rows", "spatial"}, written anew after each piece of work
    DIR/KIND.csv     the rows once more, for spreadsheets

A row says what was looked at, and what was found. What is there is not computed again, so a killed
series of checkpoints continues, and checkpoints join those of earlier calls, or of calls at the
same time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from repa.errors import RepaError
from repa.files import locked, to_json, write_atomically

Row = dict[str, Any]
Kind = Literal["probe", "align"]

# What a row is about; everything else in it was found out, or follows from these.
PLACE = ("subject", "name", "checkpoint", "weights")
STATE = ("fingerprint", "path_type")  # only one of each place is known: the newest
IDENTITY = (*PLACE, *STATE, "depth", "time", "encoder")


class Results:
    """What an analysis folder holds of one kind.

    Args:
        folder: of the results; made with the first of them.
        kind: the command, and the files' name.
        settings: what all rows have in common: images, seed and so on, as JSON values.
        overwrite: forget what is there of other settings.

    Attributes:
        rows: what is known.
        spatial: of each encoder, how its tokens are arranged in space (`align` only).

    Raises:
        RepaError: if the folder holds results of other settings, or a file of another origin.
    """

    def __init__(self, folder: Path, kind: Kind, settings: Mapping[str, Any], overwrite: bool):
        self.folder = folder
        self.kind = kind
        self.settings = json.loads(to_json(settings))  # as they will be read back
        self.overwrite = overwrite
        self.rows: list[Row] = []
        self.spatial: list[Row] = []
        self._read()
        self._known = {_identity(row) for row in self.rows}

    def __contains__(self, row: Row) -> bool:
        """Whether there was a row about the same at the start.

        All processes agree on that, whatever only the first one adds.
        """
        return _identity(row) in self._known

    def add(self, rows: Iterable[Row]) -> None:
        """Adds rows, in the place of former ones about the same or about an older state of it.

        Raises:
            RepaError: if they cannot be written.
        """
        new: list[Row] = json.loads(to_json(list(rows)))
        known = {_identity(row) for row in new}
        current = {_of(row, PLACE): _of(row, STATE) for row in new}
        with self._alone():
            kept = [
                row
                for row in self.rows
                if _identity(row) not in known
                and current.get(_of(row, PLACE), _of(row, STATE)) == _of(row, STATE)
            ]
            self.rows = kept + new

    def add_spatial(self, row: Row) -> None:
        """Adds an encoder's row, in the place of a former one.

        Raises:
            RepaError: if it cannot be written.
        """
        new: Row = json.loads(to_json(row))
        with self._alone():
            others = [known for known in self.spatial if known["encoder"] != row["encoder"]]
            self.spatial = [*others, new]

    def content(self) -> dict[str, Any]:
        """What the JSON file holds."""
        content = {"kind": self.kind, "settings": self.settings, "rows": self.rows}
        return content | ({"spatial": self.spatial} if self.kind == "align" else {})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Reads what other calls have added, lets the block change it, and writes it.

        They wait meanwhile, so that no rows are lost.
        """
        path = self.folder / self.kind
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):
                self._read()
                yield
                write_atomically(path.with_suffix(".csv"), _csv(self.rows))
                write_atomically(path.with_suffix(".json"), to_json(self.content()))
        except OSError as error:
            raise RepaError(f"--output-dir {self.folder}: {error}") from None

    def _read(self) -> None:
        found = read_results(self.folder, self.kind)
        if found is None:
            return
        if found["settings"] == self.settings:
            self.rows, self.spatial = found["rows"], found.get("spatial", [])
        elif not self.overwrite:
            theirs = found["settings"]
            names = theirs.keys() | self.settings.keys()
            differing = sorted(n for n in names if theirs.get(n) != self.settings.get(n))
            raise RepaError(
                f"{self.folder / self.kind}.json holds results of other settings (different: "
                f"{', '.join(differing)}): choose another --output-dir, or --overwrite"
            )


def read_results(folder: Path, kind: Kind) -> dict[str, Any] | None:
    """What a folder's KIND.json holds, if there is one.

    Raises:
        RepaError: if it cannot be read or is nothing of ours.
    """
    path = folder / f"{kind}.json"
    try:
        content = json.loads(path.read_bytes())
        if content["kind"] != kind or not isinstance(content["settings"], dict):
            raise ValueError(f"of another kind than {kind}")
        if not all(isinstance(row["name"], str) for row in content["rows"]):
            raise ValueError("a row without a name")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepaError(f"{path} is no result of `repa {kind}` ({error}): move it away") from None
    return content


def _identity(row: Row) -> tuple[Any, ...]:
    return _of(row, IDENTITY)


def _of(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)


def _csv(rows: list[Row]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
