"""The job of `anomaly-ae monitor`: batches judged beside what a model remembers, without any output of rows."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_ae.data.contract import listed
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_page, write_whole
from anomaly_ae.data.sources import expand
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import EmptyTableError
from anomaly_ae.loading import load
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import now
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.monitoring.history import GATES, Evidence, History, Normal
from anomaly_ae.ops import series
from anomaly_ae.ops.arguments import Path_, Progress, tell
from anomaly_ae.ops.assets import Place, add, chart
from anomaly_ae.ops.job import Job
from anomaly_ae.ops.report import more_alarms, tells, window_page
from anomaly_ae.ops.series_reading import read
from anomaly_ae.ops.series_times import laid, last_moment
from anomaly_ae.ops.sinks import NOTHING, Nowhere
from anomaly_ae.ops.tally import Allowed, nameless
from anomaly_ae.ops.tracking import Entry, digest, tracked
from anomaly_ae.promise import percent
from anomaly_ae.series.detector import SeriesDetector


@dataclass(frozen=True)
class MonitorSummary:
    """What was found in batches of a model and asset: `crossed` are the gates that any of these batches has crossed.

    `empty_inputs` are the files without a row, beside others.
    """

    model: str
    asset: str
    state: str
    batches: list[dict[str, Any]]
    crossed: list[str]
    seconds: float
    run_id: str | None = None
    tracking_uri: str | None = None
    empty_inputs: list[str] = field(default_factory=list)


def monitor(
    model: Path_,
    input: Path_ | Sequence[Path_],
    *,
    asset: str = "",
    event_time: datetime | None = None,
    state: Path | None = None,
    dialect: Dialect | None = None,
    report: Path | None = None,
    track: bool = False,
    progress: Progress | None = None,
) -> MonitorSummary:
    """Judge each file as a batch: its alarms, scores, columns and gaps beside what the model promises and remembers.

    No reference data are read: the model has a profile of its normal rows. What was found is remembered in a file a
    model and asset, so that batches are judged together as well; a batch that comes again changes nothing.

    Parameters
    ----------
    model : path
        The model folder, of rows or of series.
    input : path or sequence of paths
        Files as `score_file` takes them, each a batch of its own; empty ones are passed over beside others.
    asset : str, default=""
        Which of many alike machines, sites or customers the rows are of.
    event_time : datetime or None, default=None
        When the batches happened; `None` is the last date of a series' column of times, else when a file was written.
    state : path or None, default=None
        The file that remembers; `None` is one in `anomaly-ae-monitor` in the working directory.
    dialect : Dialect or None, default=None
        How text is written.
    report : path or None, default=None
        HTML file for all batches that are remembered.
    track : bool, default=False
        Log a run a batch in MLflow, and points at their event times in one long run a model and asset.
    progress : callable or None, default=None
        Told the share that is done and what is being done.

    Raises
    ------
    AnomalyError
        When model, input or state are not what they must be.
    """
    started = time.perf_counter()
    names, _ = expand([input] if isinstance(input, str | os.PathLike) else input)
    page = None if report is None else check_page(report, state, *names)
    name = pinned(model)
    folder = resolve(name)
    detector = load(folder)
    normal = Normal.of(detector)
    place = Place(nameless(name), digest(folder / "manifest.json"), asset, event_time, state)
    summary = MonitorSummary(place.model, asset, str(place.file), [], [], 0.0)
    history = History(normal.martingale())
    for number, file in enumerate(names):
        began = now()
        tell(progress, number / len(names), f"monitoring {Path(file).name}")
        try:
            evidence, last = evidence_of(detector, file, dialect or Dialect())
        except EmptyTableError:
            summary.empty_inputs.append(file)
            if len(summary.empty_inputs) == len(names):
                raise
            continue
        found, history = add(replace(place, event_time=event_time or last), normal, evidence, [file])
        summary.batches.append(found)
        if track and not found["repeated"]:
            who = runs.Model(place.model, place.model_digest)
            record = runs.of_monitor(found, asset, who, began)
            told = {"monitoring.json": json.dumps(found, indent=1) + "\n"}
            summary = tracked(summary, partial(_entry, record, told), chart(place, found, history))
    if page is not None:
        write_whole(page, window_page(history.batches, place.model, asset))
    crossed = [gate for gate in GATES if any(gate in found["crossed"] for found in summary.batches)]
    return replace(summary, crossed=crossed, seconds=time.perf_counter() - started)


def _entry(record: Any, files: Mapping[str, str]) -> Entry:
    return record, files, None


def evidence_of(detector: Any, file: str, dialect: Dialect) -> tuple[Evidence, datetime | None]:
    """What monitoring needs of a file's rows, and the last date of a series, if any.

    Rows that cannot be scored are left out, as far as they are few.

    Raises
    ------
    BadRowsError
        When more than one in a hundred is bad.
    """
    last = None
    if isinstance(detector, SeriesDetector):
        X, _ = read(detector, Table.open(file, dialect))
        last = last_moment(detector, X)
        evidence = series.evidence(detector, X, detector.assess(X), laid(detector, X).order)
    else:
        job = Job([detector], [file], False, dialect, [], 0)
        evidence = job.run(Nowhere(), NOTHING, Allowed.of("1%"), None).evidence()
    assert evidence is not None  # the model has a profile
    return evidence, last


def told(summary: MonitorSummary) -> str:
    """Batches for a person, one a line, with what was found below it."""
    lines = []
    for batch in summary.batches:
        low, high = batch["alarm_interval"]
        promise = "" if batch["promised"] is None else f", at most {percent(batch['promised'])} expected"
        again = ", was here before" if batch["repeated"] else ""
        calm = "more alarms than expected, no drift beyond doubt" if more_alarms(batch) else "quiet"
        mood = " ".join(batch["crossed"]) or (calm if tells([batch]) else "too few rows to tell")
        lines.append(
            f"{batch['event_time'][:16]}  {batch['name']}{again}  {batch['rows']:,} rows  alarms "
            f"{batch['alarm_rate']:.1%} ({low:.1%} to {high:.1%}{promise})  {mood}"
        )
        lines += [f"  {finding}" for finding in batch["findings"]]
    lines += [f"note: without rows: {listed(summary.empty_inputs, 8)}"] if summary.empty_inputs else []
    return "\n".join(lines)
