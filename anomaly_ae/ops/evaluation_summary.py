"""What an evaluation was: its figures by name, for people, for `--json`, and for gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomaly_ae.evaluation.detection import Detection
from anomaly_ae.evaluation.events import EventDetection
from anomaly_ae.evaluation.intervals import Estimate
from anomaly_ae.ops.tracking import told_run
from anomaly_ae.promise import percent

ALIKE = "rows of a series that follow each other are alike: intervals by rows are too narrow"


@dataclass(frozen=True)
class EvaluationSummary:
    """What an evaluation found: of rows, of events of a series, of spoilt rows, and of blame (`causes`).

    `ranges` are the labelled ranges of a series: when each begins, of which machine and label, and the rows of `delay`
    until an event, None of one that was missed. `causes` has how often a column at fault is blamed first, and how often
    one is among the first three: of anomalies that alarmed, or of a series' events that overlap a range, as far as a
    cause is known. `missed` and `false_alarms` are the worst of both mistakes. `metrics` has the figures by the names
    that gates and runs know them by.
    """

    model: str
    input: str
    label: str | None
    rows: int
    rejected: int
    notes: list[str]
    detection: Detection
    events: EventDetection | None
    ranges: list[dict[str, Any]]
    causes: dict[str, Estimate] | None
    robustness: list[dict[Any, Any]] | None
    missed: list[dict[str, Any]]
    false_alarms: list[dict[str, Any]]
    threshold: float
    metrics: dict[str, float]
    seconds: float
    run_id: str | None = None
    tracking_uri: str | None = None


def metrics(found: Detection, events: EventDetection | None) -> dict[str, float]:
    """The figures of an evaluation by name; those that there are."""
    told: dict[str, Estimate | float | None] = {
        "rows": found.rows,
        "anomalies": found.anomalies,
        "auroc": found.auroc,
        "average_precision": found.average_precision,
        "recall": found.recall,
        "false_alarm_rate": found.false_alarm_rate,
        "precision": found.precision,
        "f1": found.f1,
        "promised_false_alarm_rate": found.promised,
        "expected_precision": found.expected_precision,
    }
    if events is not None:
        told |= {
            "event_recall": events.recall,
            "event_precision": events.precision,
            "false_events": events.false_events,
            "median_delay": events.median_delay,
            "vus_pr": events.vus_pr,
        }
    known = {name: figure.value if isinstance(figure, Estimate) else figure for name, figure in told.items()}
    return {name: float(figure) for name, figure in known.items() if figure is not None}


GATES = (
    "auroc", "average_precision", "recall", "false_alarm_rate", "precision", "f1", "expected_precision", "event_recall",
    "event_precision", "false_events", "median_delay", "vus_pr",
)  # fmt: skip


def missed_gates(found: Mapping[str, float], least: Mapping[str, float], most: Mapping[str, float]) -> list[str]:
    """Which bounds figures do not keep, in words; one that there is no figure for is not kept."""
    low = [f"{name} is {_figure(found, name)}, below {bound:g}" for name, bound in least.items()
           if not found.get(name, -np.inf) >= bound]  # fmt: skip
    high = [f"{name} is {_figure(found, name)}, above {bound:g}" for name, bound in most.items()
            if not found.get(name, np.inf) <= bound]  # fmt: skip
    return low + high


def _figure(found: Mapping[str, float], name: str) -> str:
    return f"{found[name]:.4g}" if name in found else "not there"


def told(s: EvaluationSummary) -> str:
    """An evaluation for a person."""
    d = s.detection
    lines = [
        f"evaluated {d.rows:,} rows, {d.anomalies:,} of them anomalies ({d.anomalies / d.rows:.2%}), "
        f"in {s.seconds:.1f} s",
    ]
    lines += [f"note      {note}" for note in s.notes]
    lines += [
        f"AUROC     {d.auroc}",
        f"AP        {d.average_precision}; a random order has {d.anomalies / d.rows:.3f}",
        f"recall    {d.recall}: of the anomalies, how many raised an alarm",
        f"false     {d.false_alarm_rate}: of the normal rows, how many did{told_promise(d)}",
    ]
    if d.precision is not None:
        lines.append(f"precision {d.precision}: of the alarms, how many are right, in these rows")
    if d.prevalence is not None and d.expected_precision is not None:
        lines.append(f"expected  {d.expected_precision}: precision where {percent(d.prevalence)} of rows are anomalies")
    lines += [f"kind      {name}: recall {estimate}" for name, estimate in d.kinds.items()]
    if s.causes:
        lines.append("blame     " + "; ".join(f"{name.replace('_', ' ')} {e}" for name, e in s.causes.items()))
    if s.events is not None:
        lines += [told_events(s.events), f"note      {ALIKE}", *map(told_range, s.ranges[:20])]
        lines += [f"  and {len(s.ranges) - 20} more"] if len(s.ranges) > 20 else []
    if d.operating_points:
        lines += ["", "alarms at p <=    alarms   recall    false  precision"]
        lines += [
            f"  {p.alpha:<12g} {p.alarms:>9,} {p.recall:>8.3f} {p.false_alarm_rate:>8.4f} {shown(p.precision):>10}"
            for p in d.operating_points
        ]
    if s.robustness:
        lines += ["", "spoilt by          level    AUROC   recall    false"]
        lines += [
            f"  {c['kind']:<12} {c['level']:>9g} {c['auroc']:>8.3f} {c['recall']:>8.3f} {c['false_alarm_rate']:>8.3f}"
            for c in s.robustness
        ]
    return "\n".join([*lines, *told_run(s)])


def told_promise(d: Detection) -> str:
    """Whether normal rows alarm no more often than promised."""
    if d.promised is None:
        return ""
    return f"; at most {percent(d.promised)} promised" + ("" if d.keeps_promise else ", and chance does not explain it")


def told_events(e: EventDetection) -> str:
    """Events beside labelled ranges."""
    late = "" if e.median_delay is None else f", {e.median_delay:g} rows after they began (median)"
    vus = "" if e.vus_pr is None else f"; VUS-PR {e.vus_pr:.3f}"
    return f"events    {e.found} of {e.ranges} ranges found{late}; {e.false_events} of {e.events} events are false{vus}"


def told_range(one: Mapping[str, Any]) -> str:
    """A labelled range, and whether it was found."""
    delay = one["delay"]
    found = "missed" if delay is None else "found at once" if not delay else f"found after {delay} rows"
    return f"  {' '.join([*([one['group']] if 'group' in one else []), str(one['start'])])}  {one['label']}  {found}"


def shown(value: float | None) -> str:
    """A share, where there is one."""
    return "" if value is None else f"{value:.3f}"
