"""The page of HTML on an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.evaluation.detection import SURE
from anomaly_ae.ops import evaluation_pictures as pictures
from anomaly_ae.ops.evaluation_summary import ALIKE
from anomaly_ae.ops.pieces import Bad, Listed, Section, Table, Tile, drawn, page
from anomaly_ae.promise import percent

Floats = NDArray[np.float64]
INTERVALS = "In brackets: 95 % intervals."
SPOILT = (
    "noise: normal noise of so many standard deviations of a column; missing: cells emptied with that probability; "
    "scale: columns multiplied by factors that far from 1, each by its own; rotation: pairs of columns turned by that "
    "angle in radians."
)


def evaluation_page(
    summary: Mapping[str, Any],
    known: NDArray[np.int64],
    score: Floats,
    codes: Floats | None,
    of: NDArray[np.int64],
) -> str:
    """What an evaluation found; `known` are labels of all rows, `of` those of the rows of `codes`: -1, 1 or 0."""
    found = summary["detection"]
    anomalous, normal = score[known == -1], score[known == 1]
    notes = [Section("Notes", [Listed(summary["notes"])])] if summary["notes"] else []
    sections = [
        *notes,
        Section(
            "What it finds",
            [_figures(summary), f"{INTERVALS} {ALIKE.capitalize()}." if summary["events"] else INTERVALS],
        ),
        Section(
            "At any threshold",
            [drawn(pictures.curves(normal, anomalous, summary["threshold"]), "ROC and precision-recall curves")],
        ),
        Section("Scores", [drawn(pictures.scores(normal, anomalous, summary["threshold"]), "Scores by label")]),
    ]
    if found["operating_points"]:
        sections.append(_points(found))
    if summary["ranges"]:
        sections.insert(1 + len(notes), _ranges(summary["ranges"]))
    if found["kinds"]:
        rows = [[name, _estimate(estimate)] for name, estimate in found["kinds"].items()]
        sections.append(Section("Kinds of anomalies", [Table(["kind", "recall"], rows)]))
    if summary["robustness"]:
        figure = pictures.robustness(summary["robustness"])
        sections.append(Section("Spoilt rows", [drawn(figure, "AUROC by how far rows are spoilt"), SPOILT]))
    if codes is not None and codes.shape[1] > 1:
        figure = pictures.codes(codes, of)
        sections.append(Section("Codes", [drawn(figure, "Codes of rows, two principal components")]))
    for title, key in (("Missed anomalies", "missed"), ("False alarms", "false_alarms")):
        if summary[key]:
            sections.append(_mistakes(title, summary[key]))
    model, file = (Path(str(summary[name])).name for name in ("model", "input"))
    under = f"{file} judged by {model}, beside " + (
        f"labels in {summary['label']}" if summary["label"] else "its ranges"
    )
    return page(f"How good is {model}?", under, _tiles(found, summary["events"]), sections)


def _tiles(found: Mapping[str, Any], events: Mapping[str, Any] | None) -> list[Tile]:
    false, limit = found["false_alarm_rate"], found["promised"]
    kept = found["by_chance"] is None or found["by_chance"] >= SURE
    tiles = [
        Tile("rows with a label", f"{found['rows']:,}"),
        Tile("anomalies", f"{found['anomalies']:,}"),
        Tile("AUROC", f"{found['auroc']['value']:.3f}"),
        Tile("anomalies that alarm", f"{found['recall']['value']:.1%}"),
        Tile("normal rows that alarm", f"{false['value']:.1%}", "" if kept else "bad"),
    ]
    if limit is not None:
        tiles.append(Tile("promised, at most", percent(limit)))
    if events is not None:
        found_ranges = sum(delay is not None for delay in events["delays"])
        tiles.append(Tile("ranges found", f"{found_ranges} of {events['ranges']}"))
        tiles.append(Tile("false events", f"{events['false_events']}"))
    return tiles


def _figures(summary: Mapping[str, Any]) -> Table:
    found, events, causes = summary["detection"], summary["events"], summary["causes"] or {}
    share = found["anomalies"] / found["rows"]
    limit = found["promised"]
    broken = found["by_chance"] is not None and found["by_chance"] < SURE
    false = _estimate(found["false_alarm_rate"])
    rows: list[Sequence[str]] = [
        ["AUROC", _estimate(found["auroc"]), "how often an anomaly's score is above a normal row's"],
        ["average precision", _estimate(found["average_precision"]), f"a random order has {share:.3f}"],
        ["recall", _estimate(found["recall"]), "of the anomalies, how many raise an alarm"],
        [
            "false alarms",
            Bad(false) if broken else false,
            "of the normal rows, how many do"
            + (
                ""
                if limit is None
                else f"; at most {percent(limit)} promised" + (", and chance does not explain it" if broken else "")
            ),
        ],
        ["precision", _estimate(found["precision"]), f"of the alarms, how many are right, with {share:.2%} anomalies"],
    ]
    if found["expected_precision"] is not None:
        rate = percent(found["prevalence"])
        rows.append(["expected precision", _estimate(found["expected_precision"]), f"the same, with {rate} anomalies"])
    if "first" in causes:
        rows.append(["cause blamed first", _estimate(causes["first"]), "of anomalies that alarm and have a cause"])
        rows += [
            [f"cause among the first {name.removeprefix('first_')}", _estimate(estimate), "the same"]
            for name, estimate in causes.items()
            if name != "first"
        ]
    if events is not None:
        late = [delay for delay in events["delays"] if delay is not None]
        rows.append(["ranges found", _estimate(events["recall"]), "by an event that overlaps them"])
        rows.append(["events that are right", _estimate(events["precision"]), f"{events['false_events']} are not"])
        if late:
            rows.append(["delay", f"{np.median(late):g} rows", "median, from where a range begins"])
        if events["vus_pr"] is not None:
            rows.append(["VUS-PR", f"{events['vus_pr']:.3f}", "volume under the precision-recall surface"])
    return Table(["", "", "what it says"], rows, whole=frozenset({0, 1}))


def _estimate(estimate: Mapping[str, float] | None) -> str:
    return "" if estimate is None else "{value:.3f} ({low:.3f} to {high:.3f})".format(**estimate)


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


def _points(found: Mapping[str, Any]) -> Section:
    rows = [
        [
            f"{point['alpha']:g}", f"{point['alarms']:,}", f"{point['recall']:.3f}",
            f"{point['false_alarm_rate']:.4f}", "" if point["precision"] is None else f"{point['precision']:.3f}",
        ]
        for point in found["operating_points"]
    ]  # fmt: skip
    names = ["alarms at p-values up to", "alarms", "recall", "false alarms", "precision"]
    share = found["prevalence"] or found["anomalies"] / found["rows"]
    said = f"Precision is that with {percent(share)} anomalies. Levels that no row reaches are left out."
    if found["prevalence"]:
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
