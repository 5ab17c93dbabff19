"""What a fitted detector is, as plain data and as text."""

from __future__ import annotations

from typing import Any

from anomaly_ae.config import dumps
from anomaly_ae.data.contract import listed
from anomaly_ae.estimator import Detector
from anomaly_ae.promise import is_cross_fitted, percent, promised
from anomaly_ae.scoring.calibration import false_alarm_band
from anomaly_ae.series.detector import SeriesDetector

CROSS_FITTED = "cross-fitted: twice alpha, in practice about alpha"


def describe(detector: Detector | SeriesDetector) -> dict[str, Any]:
    """The facts of a fitted detector."""
    if isinstance(detector, SeriesDetector):
        return _of_series(detector)
    last = detector.history_.groupby("net").last().mean()
    threshold = detector.threshold_
    facts: dict[str, Any] = {
        "detector": dumps(detector),
        "parts": {axis: repr(part) for axis, part in detector.parts().items() if part is not None},
        "columns": list(getattr(detector, "feature_names_in_", [])) or detector.n_features_in_,
        "rows_seen": detector.n_rows_seen_,
        "calibrate_rows": len(detector.calibration_scores_),
        "nets": len(detector.folds_),
        "cross_fitted": is_cross_fitted(detector),
        "weights_per_net": sum(weight.numel() for weight in detector.folds_[0].net.parameters()),
        "threshold": threshold.value_,
        "p_value_resolution": threshold.resolution_,
        "training": {name: float(value) for name, value in last.items() if name not in ("seconds", "learning_rate")},
    }
    rate = promised(detector)
    if rate is not None:
        facts["promised_false_alarm_rate"] = rate
        if not facts["cross_fitted"]:  # else no law of it is known
            facts["false_alarm_band_95"] = list(false_alarm_band(threshold.alpha, len(detector.calibration_scores_)))
    return facts | {"lineage": detector.lineage_}


def _of_series(detector: SeriesDetector) -> dict[str, Any]:
    fold, threshold = detector.fold_, detector.threshold_
    return {
        "detector": dumps(detector),
        "parts": {f"view {k}": f"{view!r}, {eye.length} rows" for k, (view, eye) in enumerate(_eyes(detector), 1)},
        "columns": detector.contract_.names,
        "flags": [detector.contract_.names[j] for j in fold.channels.flags],
        "rows_seen": detector.n_rows_seen_,
        "calibrate_rows": len(detector.calibration_scores_),
        "step": detector.step_,
        "groups": detector.groups_,
        "threshold": threshold.value_,
        "p_value_resolution": threshold.resolution_,
        "promised_false_alarm_rate": promised(detector),
        "event_level": detector.events_.level_,
        "lineage": detector.lineage_,
    }


def _eyes(detector: SeriesDetector) -> Any:
    return zip(detector.views_, detector.fold_.eyes, strict=True)


def told(facts: dict[str, Any]) -> str:
    """The same facts for a person."""
    columns = facts["columns"]
    names = f"{columns} without names" if isinstance(columns, int) else f"{len(columns)}: {', '.join(columns)}"
    lines = [facts["detector"].strip(), ""]
    lines += [f"{axis:<13} {part}" for axis, part in facts["parts"].items()]
    lines += ["", f"columns      {names}"]
    lines.append(f"rows         {facts['rows_seen']:,} seen, calibrated by {facts['calibrate_rows']:,}")
    if facts.get("groups"):
        lines.append(f"groups       {len(facts['groups'])}: {listed(facts['groups'], 20)}")
    for parent in reversed(facts["lineage"]):
        anew = {"warm": "went on from", "threshold": "threshold anew for"}.get(parent["how"], "refit of")
        lines.append(f"lineage      {anew} {parent['model']} ({parent['digest'][:12]}) by {parent['data']}")
    if "event_level" in facts:
        lines.append(f"flags        {', '.join(facts['flags']) or 'none'}")
        promise = told_promise(facts["promised_false_alarm_rate"])
        lines.append(
            f"threshold    {facts['threshold']:.6g}{promise} (smallest p-value {facts['p_value_resolution']:.3g})"
        )
        return "\n".join([*lines, f"events       open above {facts['event_level']:.6g}"])
    lines.append(f"nets         {facts['nets']} of {facts['weights_per_net']:,} weights")
    lines.append(f"threshold    {facts['threshold']:.6g} (smallest p-value {facts['p_value_resolution']:.3g})")
    if "promised_false_alarm_rate" in facts:
        kind = CROSS_FITTED
        if not facts["cross_fitted"]:
            kind = "95 % band {:.1%} to {:.1%}".format(*facts["false_alarm_band_95"])
        lines.append(f"false alarms at most {percent(facts['promised_false_alarm_rate'])} promised ({kind})")
    training = ", ".join(f"{name} {value:.4g}" for name, value in facts["training"].items())
    lines.append(f"training     {training}")
    return "\n".join(lines)


def told_promise(rate: float | None, cross_fitted: bool = False) -> str:
    """What is promised of false alarms, if anything is, to follow on a threshold."""
    if rate is None:
        return ""
    return f", at most {percent(rate)} of normal rows above" + (f" ({CROSS_FITTED})" if cross_fitted else "")


def told_alarms(summary: Any) -> str:
    """How many alarms a job came to, beside what is promised of normal rows."""
    rate = summary.promised_false_alarm_rate
    expected = "" if rate is None else f"; at most {percent(rate)} expected of normal rows"
    return f"alarms    {summary.alarms:,} ({summary.alarm_rate:.1%}{expected})"


def told_ignored(summary: Any) -> list[str]:
    """Which columns of an input a job had no use for, if any."""
    names = summary.ignored_columns
    return [f"note      columns the model does not know, ignored: {listed(names, 8)}"] if names else []


def told_rejects(rejected: int, rows: int, rejects: str | None) -> list[str]:
    """How many rows of an input were bad, and where they are, if any."""
    where = f", in {rejects} with place and reason" if rejects else ", left out"
    return [f"bad rows  {rejected:,} of {rows:,}{where}"] if rejected else []
