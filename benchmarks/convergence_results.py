"""The tables of `convergence.py`: how far each arm got, and how soon."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from repa.files import write_atomically
from repa.report.evaluations import METRICS, Protocol, distance_of, evaluations, protocols, values
from repa.report.groups import Group, groups_of
from repa.report.runs import read_runs
from repa.report.speed_up import OVER, speed_up


def write_results(out: Path, runs: Sequence[Path]) -> None:
    """Writes `results.md`: for each judge and reference a table, and what alignment did.

    Args:
        out: the experiment's folder.
        runs: folders of all runs.
    """
    groups = groups_of(read_runs(runs))
    lines = ["Means over seeds, lowest and highest in parentheses.", ""]
    for protocol in protocols([run for group in groups for run in group.runs]):
        lines += [f"### {protocol}", "", *_table(groups, protocol), "", *_sooner(groups, protocol)]
    lines += ["### Training", "", *_costs(out, groups), "", "### Nearest training images", ""]
    lines += _nearest(out)
    text = "\n".join(lines) + "\n"
    write_atomically(out / "results.md", text.encode())
    print(f"\n{text}\nreport: {(out / 'report' / 'report.html').resolve()}")


def _table(groups: Sequence[Group], protocol: Protocol) -> Iterator[str]:
    """The distance at each evaluated step, and the other metrics at the last one."""
    members = [run for group in groups for run in group.runs]
    distance = distance_of(members, protocol)
    found = {run.name: evaluations(run, protocol) for run in members}
    steps = sorted({line["step"] for lines in found.values() for line in lines})
    others = [key for key in METRICS if key != distance
              and any(values(lines, key) for lines in found.values())]  # fmt: skip
    columns = [(distance, step) for step in steps] + [(key, steps[-1]) for key in others]
    titles = [f"{METRICS[key][0]}, step {step:,}" for key, step in columns]
    yield _row("", *titles)
    yield _row("---", *("---:" for _ in titles))
    for group in groups:
        cells = []
        for key, step in columns:
            own = [values(found[run.name], key).get(step) for run in group.runs]
            cells.append(_spread([value for value in own if value is not None]))
        yield _row(group.name, *cells)


def _sooner(groups: Sequence[Group], protocol: Protocol) -> Iterator[str]:
    for over in OVER:
        found = speed_up(groups, protocol, over)
        if found is not None:
            for arrival in found.arrivals:
                yield f"- {arrival.sentence(found.target_name)}"
    yield ""


def _costs(out: Path, groups: Sequence[Group]) -> Iterator[str]:
    yield _row("", "minutes", "images/s", "last denoising loss")
    yield _row("---", "---:", "---:", "---:")
    for group in groups:
        logs = [run.metrics for run in group.runs]
        minutes = [log[-1]["training_seconds"] / 60 for log in logs]
        rates = [median(line["images_per_second"] for line in log) for log in logs]
        losses = [log[-1]["denoising_loss"] for log in logs]
        yield _row(group.name, *map(_spread, (minutes, rates, losses)))
    seconds = json.loads((out / "target_seconds.json").read_text())
    yield ""
    for name, value in seconds.items():
        yield f"The tokens of {name} took {value:.0f} s, once for all runs."


def _nearest(out: Path) -> Iterator[str]:
    yield _row("samples", "memorized", "distance to the nearest, of training images' own")
    yield _row("---", "---:", "---:")
    for path in sorted((out / "nearest").glob("*.json")):
        found: Mapping[str, float] = json.loads(path.read_text())
        yield _row(path.stem, f"{found['memorized']:.2%}", f"{found['nearest_distance']:.3f}")


def _spread(found: Sequence[float]) -> str:
    if not found:
        return ""
    if len(found) == 1:
        return _shown(found[0])
    return f"{_shown(fmean(found))} ({_shown(min(found))} to {_shown(max(found))})"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
