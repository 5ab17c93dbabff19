"""What jobs on series were: for people, and for `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_ae.data.contract import listed
from anomaly_ae.explanation import Verdict
from anomaly_ae.ops.assets import told_drift
from anomaly_ae.ops.describe import told_alarms, told_ignored, told_promise, told_rejects
from anomaly_ae.ops.report import blamed
from anomaly_ae.ops.tally import nameless
from anomaly_ae.ops.tracking import told_run
from anomaly_ae.promise import promised
from anomaly_ae.series.detector import SeriesDetector

VALUES = ["reason"]  # columns of the table of events that hold what was measured, for no run
MANY = 0.05  # share of alarms from which on it is asked why there is no event, where nothing is promised of them


@dataclass(frozen=True)
class SeriesFitSummary:
    """What a fit on a series was."""

    model: str
    data: str
    rows: int
    columns: list[str]
    ignored_columns: list[str]
    detector: str
    window: int
    step: float
    threshold: float
    event_level: float
    promised_false_alarm_rate: float | None
    seconds: float
    flag_columns: list[str]  # flags that no view looks at
    notes: list[str]  # what a person has to know of the rows
    run_id: str | None = None
    tracking_uri: str | None = None
    registered: str | None = None  # models:/NAME/VERSION
    alias: str | None = None


@dataclass(frozen=True)
class SeriesScoreSummary:
    """What a scoring job on a series was: of so many `rows` each is `scored` or `rejected`."""

    model: str
    input: str
    output: str
    events_output: str | None
    rows: int
    scored: int
    alarms: int
    alarm_rate: float
    promised_false_alarm_rate: float | None
    threshold: float
    event_level: float
    events: list[dict[str, Any]]
    ignored_columns: list[str]
    notes: list[str]  # what a person has to know of the rows
    seconds: float
    rejected: int = 0
    rejects: str | None = None
    monitoring: dict[str, Any] | None = None
    run_id: str | None = None
    tracking_uri: str | None = None

    def in_a_run(self) -> dict[str, Any]:
        """What a run may hold of it: names of files instead of paths, and no value of a row."""
        names: dict[str, Any] = {
            "model": nameless(self.model),
            "input": Path(self.input).name,
            "output": Path(self.output).name,
        }
        for name in ("events_output", "rejects"):
            names[name] = vars(self)[name] and Path(vars(self)[name]).name
        own = ("run_id", "tracking_uri")
        names["events"] = [{name: told for name, told in event.items() if name not in VALUES} for event in self.events]
        return {name: value for name, value in vars(self).items() if name not in own} | names


def told_guess(detector: SeriesDetector) -> list[str]:
    """That the level of events is an extrapolation, where it is one."""
    every, rows = detector.events_.every, len(detector.calibration_scores_)
    if not detector.events_.guessed_:
        return []
    return [
        f"that one event in {every:,} normal rows is false is a guess from {rows:,} held-out rows; fit on more rows, "
        "or lower `every` of the event rule"
    ]


def told_unopened(detector: SeriesDetector, verdict: Verdict, events: int) -> list[str]:
    """Why there is no event, where more rows alarm than do of normal operation."""
    rate, rule, alarms = promised(detector), detector.events_, verdict.is_anomaly.mean()
    if events or alarms <= (MANY if rate is None else rate):
        return []
    highest, level = float(verdict.anomaly_score.max()), rule.level_
    if highest > level:
        return [
            f"no event: the highest score {highest:.3g} is above the level {level:.3g} at which one opens; fewer rows "
            f"than `shortest` of the event rule, {rule.shortest}, are together"
        ]
    return [
        f"no event: the highest score {highest:.3g} is {highest / level:.2g} of the level {level:.3g} at which one "
        "opens; lower `every` of the event rule to have one open sooner"
    ]


def noted(notes: list[str]) -> list[str]:
    """Notes for a person, a line each."""
    return [f"note      {note}" for note in notes]


def told_fit(s: SeriesFitSummary) -> str:
    """A fit for a person."""
    flags, promise = listed(s.flag_columns, 8), told_promise(s.promised_false_alarm_rate)
    return "\n".join(
        [
            f"fitted    {s.detector}",
            f"rows      {s.rows:,} of {len(s.columns)} columns from {s.data}, {s.seconds:.1f} s",
            *([f"note      flags, which count only where they hold what they never held: {flags}"] if flags else []),
            *told_ignored(s),
            *noted(s.notes),
            f"window    a score looks back on at most {s.window} rows",
            f"threshold {s.threshold:.6g}{promise}; events open above {s.event_level:.6g}",
            f"model     {s.model}",
            *told_run(s),
        ]
    )


def told_score(s: SeriesScoreSummary) -> str:
    """A scoring job for a person: its events, one a line."""
    lines = [
        f"scored    {s.scored:,} rows in {s.seconds:.1f} s",
        *told_ignored(s),
        *noted(s.notes),
        told_alarms(s),
        f"events    {len(s.events)}" + (f", in {s.events_output}" if s.events_output else ""),
        f"output    {s.output}",
        *told_rejects(s.rejected, s.rows, s.rejects),
    ]
    lines += told_drift(s.monitoring) + told_run(s)
    for event in s.events[:20]:
        of = f"{event['group']}  " if "group" in event else ""
        when, severity = f"{event['start']} to {event['end']}", f"severity {event['severity']:.2g}"
        lines.append(f"  {of}{when}  {severity}  {'; '.join([event['reason'], *blamed(event)])}")
    if len(s.events) > 20:
        lines.append(f"  and {len(s.events) - 20} more")
    return "\n".join(lines)
