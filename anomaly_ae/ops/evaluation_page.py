"""The page of HTML on an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.evaluation.detection import Detection
from anomaly_ae.evaluation.events import EventDetection
from anomaly_ae.evaluation.intervals import Estimate
from anomaly_ae.ops import evaluation_pictures as pictures
from anomaly_ae.ops.evaluation_summary import ALIKE, EvaluationSummary, shown, told_promise
from anomaly_ae.ops.pieces import Bad, Listed, Section, Table, Tile, drawn, page
from anomaly_ae.ops.report import of_model
from anomaly_ae.promise import percent

Floats = NDArray[np.float64]
INTERVALS = "In brackets: 95 % intervals."
SPOILT = (
    "noise: normal noise of so many standard deviations of a column; missing: cells emptied with that probability; "
    "scale: columns multiplied by factors that far from 1, each by its own; rotation: pairs of columns turned by that "
    "angle in radians."
)


def evaluation_page(
    summary: EvaluationSummary,
    known: NDArray[np.int64],
    score: Floats,
    codes: Floats | None,
    of: NDArray[np.int64],
) -> str:
    """What an evaluation found; `known` are labels of all rows, `of` those of the rows of `codes`: -1, 1 or 0."""
    found, threshold = summary.detection, summary.threshold
    anomalous, normal = score[known == -1], score[known == 1]
    sections = [Section("Notes", [Listed(summary.notes)])] if summary.notes else []
    intervals = f"{INTERVALS} {ALIKE.capitalize()}." if summary.events else INTERVALS
    sections.append(Section("What it finds", [_figures(summary), intervals]))
    if summary.ranges:
        sections.append(_ranges(summary.ranges))
    curves = drawn(pictures.curves(normal, anomalous, threshold), "ROC and precision-recall curves")
    sections += [
        Section("At any threshold", [curves]),
        Section("Scores", [drawn(pictures.scores(normal, anomalous, threshold), "Scores by label")]),
    ]
    if found.operating_points:
        sections.append(_points(found))
    if found.kinds:
        rows = [[name, str(estimate)] for name, estimate in found.kinds.items()]
        sections.append(Section("Kinds of anomalies", [Table(["kind", "recall"], rows)]))
    if summary.robustness:
        figure = pictures.robustness(summary.robustness)
        sections.append(Section("Spoilt rows", [drawn(figure, "AUROC by how far rows are spoilt"), SPOILT]))
    if codes is not None and codes.shape[1] > 1 and (codes != codes[0]).any():
        figure = pictures.codes(codes, of)
        sections.append(Section("Codes", [drawn(figure, "Codes of rows, by principal components and by t-SNE")]))
    for title, mistakes in (("Missed anomalies", summary.missed), ("False alarms", summary.false_alarms)):
        if mistakes:
            sections.append(_mistakes(title, mistakes))
    model, labels = of_model(summary.model), f"labels in {summary.label}" if summary.label else "its ranges"
    under = f"{Path(summary.input).name} judged by {model}, beside {labels}"
    return page(f"How good is {model}?", under, _tiles(found, summary.events), sections)


def _tiles(found: Detection, events: EventDetection | None) -> list[Tile]:
    tiles = [
        Tile("rows with a label", f"{found.rows:,}"),
        Tile("anomalies", f"{found.anomalies:,}"),
        Tile("AUROC", f"{found.auroc.value:.3f}"),
        Tile("anomalies that alarm", f"{found.recall.value:.1%}"),
        Tile("normal rows that alarm", f"{found.false_alarm_rate.value:.1%}", _mood(found)),
    ]
    if found.promised is not None:
        tiles.append(Tile("promised, at most", percent(found.promised)))
    if events is not None:
        tiles.append(Tile("ranges found", f"{events.found} of {events.ranges}"))
        tiles.append(Tile("false events", f"{events.false_events}"))
    return tiles


def _mood(found: Detection) -> str:
    return "bad" if found.keeps_promise is False else ""


def _figures(summary: EvaluationSummary) -> Table:
    found, events, causes = summary.detection, summary.events, summary.causes or {}
    share, false = found.anomalies / found.rows, str(found.false_alarm_rate)
    rows: list[Sequence[str]] = [
        ["AUROC", str(found.auroc), "how often an anomaly's score is above a normal row's"],
        ["average precision", str(found.average_precision), f"a random order has {share:.3f}"],
        ["recall", str(found.recall), "of the anomalies, how many raise an alarm"],
        [
            "false alarms",
            Bad(false) if _mood(found) else false,
            f"of the normal rows, how many do{told_promise(found)}",
        ],
        ["precision", _estimate(found.precision), f"of the alarms, how many are right, with {share:.2%} anomalies"],
    ]
    if found.prevalence is not None and found.expected_precision is not None:
        said = f"the same, with {percent(found.prevalence)} anomalies"
        rows.append(["expected precision", str(found.expected_precision), said])
    if "first" in causes:
        rows.append(["cause blamed first", str(causes["first"]), "of anomalies that alarm and have a cause"])
        rows += [
            [f"cause among the first {name.removeprefix('first_')}", str(estimate), "the same"]
            for name, estimate in causes.items()
            if name != "first"
        ]
    if events is not None:
        rows.append(["ranges found", _estimate(events.recall), "by an event that overlaps them"])
        rows.append(["events that are right", _estimate(events.precision), f"{events.false_events} are not"])
        if events.median_delay is not None:
            rows.append(["delay", f"{events.median_delay:g} rows", "median, from where a range begins"])
        if events.vus_pr is not None:
            rows.append(["VUS-PR", f"{events.vus_pr:.3f}", "volume under the precision-recall surface"])
    return Table(["", "", "what it says"], rows, whole=frozenset({0, 1}))


def _estimate(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)


def _ranges(ranges: Sequence[Mapping[str, Any]]) -> Section:
    several = "group" in ranges[0]
    told = [
        [
            *([one["group"]] if several else []), str(one["start"]), str(one["label"]),
            Bad("missed") if one["delay"] is None else f"after {one['delay']} rows",
        ]
        for one in ranges
    ]  # fmt: skip
    names = [*(["machine or group"] if several else []), "start", "label", "found"]
    return Section("Ranges", [Table(names, told, whole=frozenset({int(several)})).cut(50)])


def _points(found: Detection) -> Section:
    rows = [
        [
            f"{point.alpha:g}", f"{point.alarms:,}", f"{point.recall:.3f}", f"{point.false_alarm_rate:.4f}",
            shown(point.precision),
        ]
        for point in found.operating_points
    ]  # fmt: skip
    names = ["alarms at p-values up to", "alarms", "recall", "false alarms", "precision"]
    share = found.prevalence or found.anomalies / found.rows
    said = f"Precision is that with {percent(share)} anomalies. Levels that no row reaches are left out."
    if found.prevalence:
        said += " It counts on as many false alarms as the level says, where these rows had fewer."
    return Section("Other thresholds", [Table(names, rows, frozenset(range(5))), said])


def _mistakes(title: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    several = "kind" in rows[0]
    told = [
        [
            str(row["row"]), *([row["kind"]] if several else []), f"{row['anomaly_score']:.4g}",
            f"{row['p_value']:.4f}", ", ".join(row["blamed"]),
        ]
        for row in rows
    ]  # fmt: skip
    names = ["row", *(["label"] if several else []), "score", "p-value", "columns to blame"]
    first = 1 + several
    return Section(title, [Table(names, told, frozenset({0, first, first + 1}))])
