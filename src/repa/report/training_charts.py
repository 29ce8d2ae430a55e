"""Charts of training, of evaluations during training, and of those against probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repa.report.analysis_charts import TOP1, Row, model_rows, nearest_time, shown_depths, subject
from repa.report.charts import Chart, Mark, Series, file_name, shown
from repa.report.evaluations import (
    METRICS,
    Protocol,
    distance_of,
    evaluations,
    protocols,
    speed_up,
    values,
)
from repa.report.runs import Line, RunRecord

STEP = "training step"
TRAINING = {  # key in metrics.jsonl: title, axis
    "denoising_loss": ("Denoising loss over training", "denoising loss"),
    "alignment_loss": ("Alignment loss over training", "alignment loss (negative cosine)"),
    "images_per_second": ("Training speed", "images per second"),
}


def training_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Losses and speed over steps."""
    charts = []
    for key, (title, label) in TRAINING.items():
        series = _over_steps({run.name: run.metrics for run in runs}, key)
        if series:
            name = file_name("training", key)
            charts.append(Chart(name, title, STEP, label, series))
    return charts


def evaluation_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Each metric over steps; the distance with where runs reach the baseline's final value."""
    charts = []
    for protocol in protocols(runs):
        distance = distance_of(runs, protocol)
        lines = {run.name: evaluations(run, protocol) for run in runs}
        for key, (label, _) in METRICS.items():
            series = _over_steps(lines, key)
            if not series:
                continue
            charts.append(
                Chart(
                    file_name("evaluation", key, protocol.network, protocol.samples),
                    f"{label[0].upper()}{label[1:]} over training ({protocol})",
                    STEP,
                    label,
                    series,
                    _speed_up_marks(runs, protocol) if key == distance else (),
                    aside=distance not in (None, key),
                )
            )
    return charts


def accuracy_charts(runs: Sequence[RunRecord], rows: Sequence[Row]) -> list[Chart]:
    """Distance against probe accuracy: a point a checkpoint, and a point a target encoder.

    Args:
        runs: with their evaluations.
        rows: of probes; a checkpoint is shown if it has a row and an evaluation of its step.
    """
    charts = []
    for protocol in protocols(runs):
        key = distance_of(runs, protocol)
        if key is None:
            continue
        label = METRICS[key][0]
        for series, whose, name in (
            (_checkpoint_points(runs, rows, protocol, key), "of each checkpoint", "checkpoints"),
            (_encoder_points(runs, rows, protocol, key), "of each target encoder", "encoders"),
        ):
            if series:
                charts.append(
                    Chart(
                        file_name("accuracy", name, key, protocol.network, protocol.samples),
                        f"{label} against the top-1 accuracy {whose} ({protocol})",
                        TOP1.label + (" on the encoder" if name == "encoders" else ""),
                        label,
                        series,
                        kind="scatter",
                        percent="x",
                    )
                )
    return charts


def _over_steps(lines: Mapping[str, Sequence[Line]], key: str) -> tuple[Series, ...]:
    """A key's values over steps, of each run that has any; its place decides on its look."""
    series = []
    for style, (name, own) in enumerate(lines.items()):
        found = values(own, key)
        if found:
            series.append(Series(name, tuple(found), tuple(found.values()), style))
    return tuple(series)


def _speed_up_marks(runs: Sequence[RunRecord], protocol: Protocol) -> tuple[Mark, ...]:
    found = speed_up(runs, protocol)
    if found is None:
        return ()
    place = {run.name: style for style, run in enumerate(runs)}
    # In the legend of many runs, `it` is the line above.
    target = found.target_name if len(found.arrivals) < 3 else "it"
    marks = [Mark(found.target_name, y=found.target, style=place[found.baseline])]
    for arrival in found.arrivals:
        run = runs[place[arrival.run]]
        y = None
        if arrival.step is not None:
            y = values(evaluations(run, protocol), found.key)[arrival.step]
        marks.append(Mark(arrival.sentence(target), arrival.step, y, place[arrival.run]))
    return tuple(marks)


def _checkpoint_points(
    runs: Sequence[RunRecord], rows: Sequence[Row], protocol: Protocol, key: str
) -> tuple[Series, ...]:
    """For each run, top-1 at its shown depth and the distance at the same step."""
    models = [row for row in model_rows(rows) if row["weights"] == "ema"]  # what is evaluated
    if not models:
        return ()
    depths, middle = shown_depths(models, TOP1.key), nearest_time(models)
    at_depth = [r for r in models if r["time"] == middle and r["depth"] == depths[subject(r)]]
    series = []
    for style, run in enumerate(runs):
        distances = values(evaluations(run, protocol), key)
        accuracy = {row["step"]: row["top1"] for row in at_depth if subject(row) == run.name}
        steps = sorted(distances.keys() & accuracy.keys())
        if steps:
            x, y = tuple(accuracy[s] for s in steps), tuple(distances[s] for s in steps)
            series.append(Series(run.name, x, y, style, tuple(map(shown, steps))))
    return tuple(series)


def _encoder_points(
    runs: Sequence[RunRecord], rows: Sequence[Row], protocol: Protocol, key: str
) -> tuple[Series, ...]:
    """For each run aligned to one encoder, the encoder's top-1 and the run's final distance."""
    accuracy = {row["name"]: row["top1"] for row in rows if row["subject"] == "encoder"}
    found: dict[str, Series] = {}
    for style, run in enumerate(runs):
        encoder = str(run.options.get("enc_type"))
        distances = values(evaluations(run, protocol), key)
        if run.is_aligned and encoder in accuracy and distances:
            last = distances[max(distances)]
            found[run.name] = Series(
                f"{encoder} ({run.name})", (accuracy[encoder],), (last,), style, (encoder,)
            )
    several = len({series.labels for series in found.values()}) > 1
    return tuple(found.values()) if several else ()
