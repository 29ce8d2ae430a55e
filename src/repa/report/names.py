"""What runs are called: their folders' names, with more of the path where those are the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Place = tuple[str, Path | None]  # what a row calls its run or file, and where that lies


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names; where some are the same, with as much of the path before as tells."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = [_tail(folder, length) for folder in folders]
        if len(set(names)) == len(names):
            break
    return [
        name if [f.name for f in folders].count(folder.name) > 1 else printable(folder.name)
        for folder, name in zip(folders, names, strict=True)
    ]


def named_rows(rows: Sequence[Row], runs: Mapping[Path, str] | None = None) -> list[dict[str, Any]]:
    """Rows of an analysis, each about one of these runs with its name; no two share a name.

    A row is about the run in its folder. Where no row is about a run, its folder may have been
    moved since: then those of the one folder of this name that is gone are taken for it.

    Args:
        rows: of `repa probe` or `repa align`.
        runs: names by folder, resolved.
    """
    runs = runs or {}
    places = list(dict.fromkeys(_place(row) for row in rows if row["subject"] == "model"))
    found = {place: runs[place[1]] for place in places if place[1] is not None and place[1] in runs}
    others = [place for place in places if place not in found]
    of_runs = {_place(row) for row in rows if isinstance(row.get("run"), str)}
    moved = [p for p in others if p in of_runs and p[1] is not None and not p[1].is_dir()]
    folder_names = [printable(folder.name) for folder in runs]
    for name, run_name in zip(folder_names, runs.values(), strict=True):
        own = [place for place in moved if place[0] == name]
        if run_name not in found.values() and folder_names.count(name) == len(own) == 1:
            found[own[0]] = run_name
    others = [place for place in others if place not in found]
    for place in others:
        same = [other[1] for other in others if other[0] == place[0]]
        found[place] = _told_apart(place, same, set(found.values()) | set(runs.values()))
    return [
        {**row, "name": found[_place(row)] if row["subject"] == "model" else printable(row["name"])}
        for row in rows
    ]


def printable(text: str) -> str:
    """The text in one line that any file can hold."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _place(row: Row) -> Place:
    where = row.get("run") or row.get("checkpoint")
    path = Path(printable(where)).resolve() if isinstance(where, str) else None
    return printable(row["name"]), path


def _told_apart(place: Place, same: Sequence[Path | None], taken: Collection[str]) -> str:
    """The name by itself if it is the only one, else with as much of the path as tells."""
    name, path = place
    if path is None or (len(same) == 1 and name not in taken):
        return name
    for length in range(2, len(path.parts)):
        longer = _tail(path, length)
        if longer not in taken and [_tail(p, length) for p in same if p].count(longer) == 1:
            return longer
    return printable(str(path))


def _tail(path: Path, length: int) -> str:
    return printable("/".join(path.parts[-length:]))
