"""The results of `repa probe` and `repa align` on disk: rows that a later call adds to.

    DIR/KIND.json    {"kind", "settings", "rows", "spatial"}, written anew after each piece of work
    DIR/KIND.csv     the rows once more, for spreadsheets

A row says what was looked at, and what was found. What is there is not computed again, so a killed
series of checkpoints continues, and checkpoints join those of earlier calls.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from repa.errors import RepaError
from repa.files import to_json, write_atomically

Row = dict[str, Any]
Kind = Literal["probe", "align"]

# What a row is about; everything else in it was found out, or follows from these.
IDENTITY = ("subject", "name", "checkpoint", "weights", "fingerprint", "depth", "time", "encoder")


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
        self.rows: list[Row] = []
        self.spatial: list[Row] = []
        found = read_results(folder, kind)
        if found is None:
            return
        if found["settings"] == self.settings:
            self.rows, self.spatial = found["rows"], found.get("spatial", [])
        elif not overwrite:
            theirs = found["settings"]
            names = theirs.keys() | self.settings.keys()
            differing = sorted(n for n in names if theirs.get(n) != self.settings.get(n))
            raise RepaError(
                f"{folder / kind}.json holds results of other settings (different: "
                f"{', '.join(differing)}): choose another --output-dir, or --overwrite"
            )

    def __contains__(self, row: Row) -> bool:
        """Whether there is a row about the same."""
        return _identity(row) in {_identity(known) for known in self.rows}

    def add(self, rows: Iterable[Row]) -> None:
        """Adds rows, in the place of former ones about the same or about an older state of it.

        Raises:
            RepaError: if they cannot be written.
        """
        new: list[Row] = json.loads(to_json(list(rows)))
        known = {_identity(row) for row in new}
        current = {_place(row): row.get("fingerprint") for row in new}
        kept = [
            row
            for row in self.rows
            if _identity(row) not in known
            and current.get(_place(row), row.get("fingerprint")) == row.get("fingerprint")
        ]
        self.rows = kept + new
        self._write()

    def add_spatial(self, row: Row) -> None:
        """Adds an encoder's row, in the place of a former one.

        Raises:
            RepaError: if it cannot be written.
        """
        others = [known for known in self.spatial if known["encoder"] != row["encoder"]]
        self.spatial = [*others, json.loads(to_json(row))]
        self._write()

    def content(self) -> dict[str, Any]:
        """What the JSON file holds."""
        content = {"kind": self.kind, "settings": self.settings, "rows": self.rows}
        return content | ({"spatial": self.spatial} if self.kind == "align" else {})

    def _write(self) -> None:
        path = self.folder / self.kind
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path.with_suffix(".csv"), _csv(self.rows))
            write_atomically(path.with_suffix(".json"), to_json(self.content()))
        except OSError as error:
            raise RepaError(f"--output-dir {self.folder}: {error}") from None


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
    return tuple(row.get(name) for name in IDENTITY)


def _place(row: Row) -> tuple[Any, ...]:
    """Where the weights came from: others found there replace those that a row is about."""
    return tuple(row.get(name) for name in ("subject", "name", "checkpoint", "weights"))


def _csv(rows: list[Row]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
