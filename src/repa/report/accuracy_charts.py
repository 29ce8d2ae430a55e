"""Charts of distances against what probes read: a point a checkpoint, a point a target encoder."""

from __future__ import annotations

from collections.abc import Sequence

from repa.report.analysis_charts import TOP1, Row, model_rows, nearest_time, shown_depths, subject
from repa.report.charts import Chart, Series, file_name, shown
from repa.report.evaluations import (
    METRICS,
    Protocol,
    distance_of,
    evaluations,
    protocols,
    values,
)
from repa.report.runs import RunRecord


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
                        file_name("accuracy", name, key, *protocol.parts),
                        f"{label} against the top-1 accuracy {whose} ({protocol})",
                        TOP1.label + (" on the encoder" if name == "encoders" else ""),
                        label,
                        series,
                        kind="scatter",
                        percent="x",
                    )
                )
    return charts


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
