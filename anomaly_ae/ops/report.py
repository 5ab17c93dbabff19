"""Pages of HTML for people: on a fit, on a scored batch, on a window of monitoring. A page is a list of sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.ops import pictures
from anomaly_ae.ops.describe import CROSS_FITTED
from anomaly_ae.ops.pieces import Bad, Code, Listed, Section, Table, Tile, drawn, page
from anomaly_ae.promise import is_cross_fitted, percent, promised

Floats = NDArray[np.float64]
MOST_ROWS, MOST_SMALL = 30, 12
QUIET = "None is found: alarms, scores and columns are within what chance makes of rows as at the fit."
DRIFT = (
    "Part in scores: how much of the growth of the mean score since the fit is the column's. Distance: the "
    "largest between the distribution functions now and then, 0 to 1. PSI: population stability index, 0 or more. "
    "Adjusted p: of the strongest of four tests, allowing for all columns; drift is below 0.001. Beside others: the "
    "column counts for more in rows where others have moved, and has not moved itself. Dates move on by nature."
)
TOO_FEW = "Too few rows to tell: were all of them strange, it might still be chance."


# --- pages -----------------------------------------------------------------------------------------------------------


def fit_page(detector: Any, described: str, name: str) -> str:
    """What a model of this name is, how it learned, and where its threshold lies; `described` is by `ops.describe`."""
    tiles = [
        Tile("rows learned from", f"{detector.n_rows_seen_:,}"),
        Tile("columns", f"{detector.n_features_in_:,}"),
        Tile("threshold", f"{detector.threshold_.value_:.4g}"),
    ]
    rate = promised(detector)
    if rate is not None:
        tiles.append(Tile("false alarms, at most", percent(rate)))
    if hasattr(detector, "events_"):
        tiles.append(Tile("events open above", f"{detector.events_.level_:.4g}"))
    scores = _scores(detector.calibration_scores_, detector.threshold_.value_, None, "calibrate rows")
    sections = [scores._replace(pieces=[*scores.pieces, _why(detector)])]
    if len(detector.history_):
        sections.append(_learning(detector.history_))
    sections += [_columns(detector), Section("What it is", [Code(described)])]
    under = f"{type(detector).__name__}, fitted on rows that were taken for normal on {date.today()}"
    return page(name, under, tiles, sections)


def _why(detector: Any) -> str:
    """Why the threshold lies where it does."""
    threshold, n = detector.threshold_, len(detector.calibration_scores_)
    how = ", ".join([type(threshold).__name__, *(f"{name} {value}" for name, value in threshold.get_params().items())])
    said = f"Scores above {threshold.value_:.4g} are alarms: set by {n:,} normal rows that were held out ({how})"
    rate = promised(detector)
    if rate is None:
        return f"{said}; nothing is promised of new ones."
    twice = f" ({CROSS_FITTED})" if is_cross_fitted(detector) else ""
    return f"{said}, so that at most {percent(rate)} of new normal rows are above it{twice}."


def _learning(history: Any) -> Section:
    if history["epoch"].max() > 1:
        return Section("Learning", [drawn(pictures.curves(history), "Loss by epoch")])
    means = history.mean()  # one epoch is no curve: a net in closed form has no other
    seen = f", {means['validate_loss']:.4g} nats on rows that were held out" if "validate_loss" in means else ""
    return Section("Learning", [f"One epoch: a loss of {means['loss']:.4g} nats a row on rows learned from{seen}."])


def batch_page(
    summary: Mapping[str, Any],
    sample: Floats,
    reference: Floats,
    threshold: float,
    monitoring: Mapping[str, Any] | None = None,
    figures: Sequence[tuple[str, Any]] = (),
) -> str:
    """What came of a scoring job: alarms, scores, the strangest rows or events, and how far the rows have moved.

    `figures` are of events: a machine's name, where there are several, and its picture.
    """
    inputs = summary.get("inputs") or [summary.get("input")]
    name = str(Path(str(inputs[0])).name) + (f" and {len(inputs) - 1} more" if len(inputs) > 1 else "")
    rate = summary.get("promised_false_alarm_rate")
    tiles = [
        Tile("rows", f"{summary['rows']:,}"),
        Tile("alarms", f"{summary['alarms']:,}"),
        Tile("alarm rate", f"{summary['alarm_rate']:.2%}"),
    ]
    if rate is not None:
        tiles.append(Tile("expected of normal rows, at most", percent(rate)))
    if summary.get("rejected"):
        tiles.append(Tile("bad rows, not scored", f"{summary['rejected']:,}", "bad"))
    if "events" in summary:
        tiles.insert(1, Tile("events", f"{len(summary['events']):,}"))
    sections = []
    if summary.get("notes"):
        sections.append(Section("Notes", [Listed(summary["notes"])]))
    if summary.get("events"):
        sections.append(_events(summary["events"]))
    for machine, figure in figures:
        title = "What sensors measured" + (f": {machine}" if machine else "")
        sections.append(Section(title, [drawn(figure, f"Blamed channels and the score {machine}".strip())]))
    if monitoring is not None:
        sections.append(_findings(monitoring))
    sections.append(_scores(sample, threshold, reference, "rows", int(summary.get("scored", summary["rows"]))))
    if summary.get("top_anomalies"):
        sections.append(_strangest(summary["top_anomalies"]))
    if summary.get("challenger"):
        sections.append(_beside(summary["challenger"]))
    if monitoring is not None:
        sections += _drift(monitoring)
    return page(name, f"Scored by {of_model(str(summary['model']))}", tiles, sections)


def window_page(batches: Sequence[Mapping[str, Any]], model: str, asset: str) -> str:
    """Batches of a model and an asset in order of their event times, and the drift of the last one."""
    last = batches[-1]
    tiles = [
        Tile("batches", f"{len(batches):,}"),
        Tile("rows", f"{sum(batch['rows'] for batch in batches):,}"),
        Tile("alarm rate of the last", f"{last['alarm_rate']:.2%}", "bad" if "alarms" in last["crossed"] else ""),
        Tile("columns that drift in the last", str(len(last["drifting"])), "bad" if last["drifting"] else "good"),
    ]
    said = [[_when(batch), batch["name"], text] for batch in batches[::-1] for text in batch["findings"]]
    sections = [
        Section(
            "Drift since the fit",
            [Table(["when (UTC)", "batch", "what"], said).cut(MOST_ROWS) if said else _quiet(batches)],
        ),
        Section("Over time", [drawn(pictures.over_time(batches), "Alarm rate, drift and martingale by batch")]),
        _batches(batches),
        *_drift(last),
    ]
    first, until = _when(batches[0]), _when(last)
    span = until if first == until else f"{first} to {until}"
    return page(f"{asset or 'all rows'}, {of_model(model)}", f"Monitoring, {span} (UTC)", tiles, sections)


def of_model(name: str) -> str:
    """A folder without where it is; a registered model by name and version."""
    registered = "models:/"
    return name.removeprefix(registered).replace("/", ", version ") if name.startswith(registered) else Path(name).name


# --- sections --------------------------------------------------------------------------------------------------------


def _findings(monitoring: Mapping[str, Any]) -> Section:
    findings = monitoring["findings"]
    return Section("Drift since the fit", [Listed(findings) if findings else _quiet([monitoring])])


def tells(batches: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of these batches has rows enough to find something in them."""
    return any(batch.get("tells", True) for batch in batches)  # states of before did not say


def more_alarms(batch: Mapping[str, Any]) -> bool:
    """Whether more rows alarm than a model promises of normal ones, though it may be by chance."""
    return batch["promised"] is not None and batch["alarm_interval"][0] > batch["promised"]


def _quiet(batches: Sequence[Mapping[str, Any]]) -> str:
    return QUIET if tells(batches) else TOO_FEW


def _scores(scores: Floats, threshold: float, reference: Floats | None, of: str, rows: int | None = None) -> Section:
    figure = pictures.score_histogram(scores, threshold, f"Scores of {of}", reference, rows)
    return Section("Scores", [drawn(figure, figure.axes[0].get_title())])


def _columns(detector: Any) -> Section:
    rows = [[column.name, column.kind, _held(column), f"{column.missing:.1%}"] for column in detector.contract_.columns]
    table = Table(["column", "kind", "range or categories", "missing"], rows, frozenset({3}))
    return Section("Columns", [table.cut(100)])


def _held(column: Any) -> str:
    if column.kind == "category":
        return ", ".join(column.levels[:8]) + (", ..." if len(column.levels) > 8 else "")
    return "" if column.low is None else f"{column.shown(column.low)} to {column.shown(column.high)}"


def _strangest(rows: Sequence[Mapping[str, Any]]) -> Section:
    told = [
        [
            _place(row),
            f"{row['anomaly_score']:.4g}",
            f"{row['p_value']:.4f}",
            row.get("reasons") or ", ".join(row.get("blamed", {})),
        ]
        for row in rows
    ]
    table = Table(["row", "score", "p-value", "why"], told, frozenset({1, 2}), whole=frozenset({0}))
    return Section("Strangest rows", [table.cut(50)])


def _beside(challenger: Mapping[str, Any]) -> Section:
    """What a second model says of the same rows."""
    counts = [
        ["the champion alarms", f"{challenger['both']:,}", f"{challenger['champion_only']:,}"],
        ["it does not", f"{challenger['challenger_only']:,}", f"{challenger['neither']:,}"],
    ]
    pieces: list[Any] = [
        f"{of_model(str(challenger['model']))}: {challenger['alarms']:,} alarms, above {challenger['threshold']:.4g}.",
        Table(["rows where", "the challenger alarms", "it does not"], counts, frozenset({1, 2}), whole=frozenset({0})),
    ]
    if challenger["disagreements"]:
        told = [
            [
                _place(row),
                "champion" if row["is_anomaly"] else "challenger",
                f"{row['p_value']:.4f}",
                f"{row['challenger_p_value']:.4f}",
            ]
            for row in challenger["disagreements"]
        ]
        names = ["strongest disagreements: row", "alarm of", "p-value, champion", "p-value, challenger"]
        pieces.append(Table(names, told, frozenset({2, 3}), whole=frozenset({0})))
    return Section("Beside the challenger", pieces)


def _place(row: Mapping[str, Any]) -> str:
    return (f"{Path(row['file']).name}, " if "file" in row else "") + str(row["row"])


def _events(events: Sequence[Mapping[str, Any]]) -> Section:
    several, told_why = "group" in events[0], "reason" in events[0]
    told = [
        [
            str(number), *([str(event["group"])] if several else []), str(event["start"]), str(event["end"]),
            f"{event['severity']:.3g}", *([event["reason"]] if told_why else []), "; ".join(blamed(event)),
        ]
        for number, event in enumerate(events, 1)
    ]  # fmt: skip
    why = ["at its peak"] if told_why else []
    names = ["", *(["machine or group"] if several else []), "start", "end", "severity", *why, "channels to blame"]
    first = names.index("start")
    table = Table(names, told, frozenset({0, first + 2}), whole=frozenset({first, first + 1})).cut(50)
    return Section("Events", [table, "Severity: the highest score, in units of the level at which an event opens."])


def blamed(event: Mapping[str, Any]) -> list[str]:
    """The channels to blame for an event, in words; beside the first those of a tenth or more."""
    return [
        f"{event[f'channel_{k}']} {event[f'channel_{k}_share']:.0%} since {event[f'channel_{k}_since']}"
        for k in (1, 2, 3)
        if event.get(f"channel_{k}_share", 0) >= 0.1 or (k == 1 and event.get("channel_1"))
    ]


def _batches(batches: Sequence[Mapping[str, Any]]) -> Section:
    told = [
        [
            _when(batch),
            batch["name"],
            f"{batch['rows']:,}",
            f"{batch['alarm_rate']:.2%}",
            "{:.2%} to {:.2%}".format(*batch["alarm_interval"]),
            f"{batch['score']['ks']:.3f}",
            f"{batch['martingale']['log10']:.1f}",
            ", ".join(batch["drifting"][:3]) + (", ..." if len(batch["drifting"]) > 3 else ""),
        ]
        for batch in batches[::-1]
    ]
    names = [
        "when (UTC)",
        "batch",
        "rows",
        "alarm rate",
        "95 % interval",
        "score drift",
        "martingale, log10",
        "drifting",
    ]
    return Section("Batches", [Table(names, told, frozenset({2, 3, 4, 5, 6})).cut(MOST_ROWS)])


def _is_date(feature: Mapping[str, Any]) -> bool:
    """Whether a column moves on by nature."""
    return bool(feature["kind"] == "date")


def _when(batch: Mapping[str, Any]) -> str:
    """A batch's event time, which is written in UTC, to the minute."""
    return str(batch["event_time"])[:16].replace("T", " ")


def _drift(monitoring: Mapping[str, Any]) -> list[Section]:
    features = monitoring.get("features") or []
    if not features:
        return []
    told = [
        [
            feature["name"],
            f"{feature['excess']:.0%}",
            *(["", ""] if _is_date(feature) else [f"{feature['statistic']:.3f}", f"{feature['psi']:.3f}"]),
            f"{feature['missing']:.1%} ({feature['missing_reference']:.1%})",
            "" if _is_date(feature) else f"{feature['beyond']:.1%}",
            f"{feature['adjusted']:.2g}",
            Bad(feature["why"]) if feature["drifts"] else "beside others" if feature.get("affected") else "",
        ]
        for feature in features
    ]
    names = [
        "column",
        "part in scores",
        "distance",
        "PSI",
        "missing (at fit)",
        "unseen at fit",
        "adjusted p",
        "drift",
    ]
    table = Table(names, told, frozenset({1, 2, 3, 4, 5, 6}), frozenset({7}))
    sections = [Section("Columns beside those of the fit", [table.cut(MOST_ROWS), DRIFT])]
    drifting = [feature for feature in features if feature["drifts"]][:MOST_SMALL]
    if drifting:
        panels = drawn(pictures.small(drifting), "Shares by bin, of " + ", ".join(f["name"] for f in drifting))
        sections.append(Section("Columns that drift: now (bars) and at fit (line)", [panels]))
    return sections
