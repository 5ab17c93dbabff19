"""The job of `anomaly-ae evaluate`: a model judges rows whose labels are known, and is judged by them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from anomaly_ae import storage
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_page, write_whole
from anomaly_ae.data.streams import STDIN
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError
from anomaly_ae.evaluation.detection import Promise, check_prevalence, evaluate_scores
from anomaly_ae.evaluation.events import EventDetection, evaluate_events
from anomaly_ae.evaluation.intervals import Estimate, rate
from anomaly_ae.evaluation.robustness import robustness_curves
from anomaly_ae.folds import BLOCK
from anomaly_ae.loading import load, load_for_rows
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import now
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.ops.arguments import Path_, Progress, tell
from anomaly_ae.ops.evaluation_page import evaluation_page
from anomaly_ae.ops.evaluation_summary import EvaluationSummary, metrics
from anomaly_ae.ops.fitting import source
from anomaly_ae.ops.job import Job
from anomaly_ae.ops.labels import Clock, Labels, named
from anomaly_ae.ops.series_reading import read
from anomaly_ae.ops.series_table import told_rows
from anomaly_ae.ops.series_times import laid
from anomaly_ae.ops.sinks import AS_TABLES, Gathered
from anomaly_ae.ops.tally import Allowed, nameless
from anomaly_ae.ops.tracking import Entry, digest, tracked, written
from anomaly_ae.series.detector import SeriesDetector

BLAMED = 3  # columns named a row
MOST = 2000  # rows that are spoilt, and whose codes are drawn
SHOWN = 20  # rows of each kind of mistake
KINDS = 20  # of anomalies, that are told apart


class Judged(NamedTuple):
    """What a model says of rows: a table as `score` writes it, those of its columns that labels need, and the rest.

    `read` gives rows by their places, as the model takes them. Of a series `clock` says when rows are, `order` puts
    them in order, `spans` are the rows of each of its `events`, and a score looks at up to `length` rows.
    """

    table: pa.Table
    kept: pd.DataFrame
    total: int
    rejected: int
    read: Callable[[NDArray[np.intp]], pd.DataFrame]
    clock: Clock | None = None
    order: NDArray[np.intp] | None = None
    events: pd.DataFrame | None = None
    spans: Sequence[NDArray[np.intp]] = ()
    length: int = 0


def evaluate(
    model: Path_,
    input: Path_,
    labels: Labels,
    *,
    prevalence: float | None = None,
    robustness: bool = False,
    dialect: Dialect | None = None,
    report: Path | None = None,
    track: bool = False,
    progress: Progress | None = None,
) -> EvaluationSummary:
    """Have a model judge a file of rows, of a table or a series, and compare with their labels.

    Nothing is set by the labels: alarms are those that `score` raises. Rows without a label count for nothing; rows
    that cannot be scored are left out, at most one in a hundred.

    Raises
    ------
    AnomalyError
        When model, file or labels are not what they must be.
    """
    started, began = time.perf_counter(), now()
    check_prevalence(prevalence)
    if str(input) == STDIN:
        raise ConfigError("An evaluation needs a file, which it reads more than once, however: -. Give its name.")
    page = None if report is None else check_page(report, input, labels.file)
    name = pinned(model)
    folder = resolve(name)
    detector = (load if storage.kind(folder) == "SeriesDetector" else load_for_rows)(folder)
    judge = _series if isinstance(detector, SeriesDetector) else _table
    dialect = dialect or Dialect()
    judged = judge(detector, input, labels, dialect, progress)
    rows = judged.table.column("row").to_numpy()
    y, kinds, cause, notes = labels.of(rows, judged.kept, judged.total, dialect, judged.clock)
    if without := int((y == 0).sum()) + judged.rejected:
        notes += (f"{without:,} rows are left out: {judged.rejected:,} are bad, the others have no label",)
    events = _events(judged, y, judged.table.column("anomaly_score").to_numpy())
    if (near := _near(judged, y)).any():
        y = np.where(near, 0, y)
        notes += (
            f"{near.sum():,} normal rows count for nothing: a window that is judged with them holds a labelled range",
        )
    if labels.column in detector.contract_.names:
        notes += (f"the model judges {labels.column} itself, so that these figures flatter it",)
    score, p_value, alarm = (judged.table.column(n).to_numpy() for n in ("anomaly_score", "p_value", "is_anomaly"))
    several = len(np.unique(kinds[y == -1].astype(str))) > 1
    kinds = _few(kinds, y == -1)
    found = evaluate_scores(
        y, score, alarm, p_value, kinds=kinds if several else None, prevalence=prevalence, promise=Promise.of(detector)
    )
    places = np.arange(len(y)) if judged.order is not None else _some(y)
    X, curves = judged.read(places), None
    if len(places) < len(y) and robustness:
        notes += (f"spoilt are {len(places):,} of the rows, with as many anomalies as there are, up to half of them",)
    if robustness:
        tell(progress, 0.8, "spoiling rows")
        curves = robustness_curves(detector, X, y[places], columns=_measured(detector, X))
    worst = partial(_worst, judged.table, kinds if several else None)
    summary = EvaluationSummary(
        model=name,
        input=str(input),
        label=labels.column,
        rows=judged.total,
        rejected=judged.rejected,
        notes=list(notes),
        detection=found,
        events=events,
        ranges=_ranges(judged, events, kinds, X, detector.time) if isinstance(detector, SeriesDetector) else [],
        causes=None if labels.cause is None else _causes(judged, cause, (y == -1) & alarm),
        robustness=None if curves is None else curves.to_dict("records"),
        missed=worst((y == -1) & ~alarm, score),
        false_alarms=worst((y == 1) & alarm, -score),
        threshold=detector.threshold_.value_,
        metrics=metrics(found, events),
        seconds=time.perf_counter() - started,
    )
    codes = None if judged.order is not None or not hasattr(detector, "transform") else detector.transform(X)
    drawn = cache(partial(evaluation_page, summary, y, score, codes, y[places]))  # it names no path: a run has it too
    if page is not None:
        tell(progress, 0.95, "drawing")
        write_whole(page, drawn())
    if not track:
        return summary

    def run() -> Entry:
        plain = asdict(summary) | {"model": nameless(name), "input": Path(input).name}
        of = runs.Model(nameless(name), digest(folder / "manifest.json"))
        tags = {"anomaly_ae.label": str(labels.column)}
        if labels.file is not None:
            told = source(labels.file)
            tags |= {"anomaly_ae.labels": told.name, "anomaly_ae.labels_digest": told.digest}
        record = runs.of_score(source(input), of, began, summary.metrics, tags, "evaluate")
        files = {"evaluation.json": json.dumps(plain, indent=1) + "\n"}
        return record, {**files, **written(drawn)}, None

    return tracked(summary, run)


# --- what the model says ---------------------------------------------------------------------------------------------


def _table(detector: Any, input: Path_, labels: Labels, dialect: Dialect, progress: Progress | None) -> Judged:
    Table.open(input, dialect).require(labels.beside, "--label, --cause or --on")
    job = Job([detector], [str(input)], False, dialect, labels.beside, BLAMED)
    sink = Gathered()
    tally = job.run(sink, AS_TABLES, Allowed.of("1%"), lambda share, what: tell(progress, 0.7 * share, what))
    table = pa.concat_tables(sink.tables)
    rows = table.column("row").to_numpy()
    read = lambda places: _rows(detector, Table.open(input, dialect), rows[places])  # noqa: E731
    return Judged(table, table.select(labels.beside).to_pandas(), tally.rows, tally.rejected, read)


def _rows(detector: Any, table: Table, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Some rows of a file, by their numbers, as the model takes them."""
    columns = detector.contract_.columns
    names = list(getattr(detector, "feature_names_in_", table.columns))
    numbers = [name for name, column in zip(names, columns, strict=True) if column.kind == "number"]
    texts = [name for name in names if name not in set(numbers)]
    found = [
        block.X[block.X.index.isin(rows)] for block in table.blocks(numbers, texts, BLOCK, aside=lambda reject: None)
    ]
    return pd.concat(found)[names]


def _series(detector: Any, input: Path_, labels: Labels, dialect: Dialect, progress: Progress | None) -> Judged:
    X, kept = read(detector, Table.open(input, dialect), labels.beside, progress)
    told = told_rows(detector, X, {}, BLAMED)
    times, machines = (None if name is None else X[name] for name in (detector.time, detector.group))
    clock, order = Clock.of(times, machines, len(X)), laid(detector, X).order
    beside, length = pd.DataFrame(kept, index=X.index), detector.fold_.length
    return Judged(told.table, beside, len(X), 0, X.iloc.__getitem__, clock, order, told.events, told.spans, length)


def _measured(detector: Any, X: pd.DataFrame) -> list[str]:
    """Columns of numbers that the model judges."""
    beside = [getattr(detector, "time", None), getattr(detector, "group", None)]
    return [name for name in X.select_dtypes("number").columns if name not in beside]


# --- what is found ---------------------------------------------------------------------------------------------------


def _events(judged: Judged, y: NDArray[np.int64], score: NDArray[np.float64]) -> EventDetection | None:
    if judged.clock is None or judged.order is None:
        return None
    event, order, machine = judged.table.column("event").fill_null(0).to_numpy(), judged.order, judged.clock.machine
    return evaluate_events(
        (y == -1)[order], event[order], score[order], series=None if machine is None else machine[order]
    )


def _near(judged: Judged, y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Normal rows of a series whose windows hold rows of a range: what is said of them is said of the range."""
    near = np.zeros(len(y), dtype=bool)
    if judged.order is None or judged.clock is None:
        return near
    machine = judged.clock.machine
    for one in [None] if machine is None else np.unique(machine):
        rows = judged.order if machine is None else judged.order[machine[judged.order] == one]
        marked = (y[rows] == -1).astype(np.int8)
        near[rows] = maximum_filter1d(marked, 2 * judged.length - 1, mode="constant").astype(bool) & (y[rows] == 1)
    return near


def _some(y: NDArray[np.int64]) -> NDArray[np.intp]:
    """Places of some rows: all anomalies, up to half of them, and others, evenly spread."""
    anomalies, others = np.flatnonzero(y == -1), np.flatnonzero(y != -1)
    picked = [_spread(anomalies, MOST // 2), _spread(others, MOST - min(len(anomalies), MOST // 2))]
    return np.sort(np.concatenate(picked))


def _spread(places: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    return places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(np.intp))]


def _few(kinds: NDArray[np.object_], anomalous: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Labels of which those of the rarer anomalies are one: free text is no kind."""
    names, counts = np.unique(kinds[anomalous].astype(str), return_counts=True)
    if len(names) <= KINDS:
        return kinds
    known = set(names[np.argsort(-counts, kind="stable")[:KINDS]])
    return np.array([kind if str(kind) in known else "others" for kind in kinds], dtype=object)


def _ranges(
    judged: Judged, events: EventDetection | None, label: NDArray[np.object_], X: pd.DataFrame, time: str | None
) -> list[dict[str, Any]]:
    if events is None or judged.order is None or judged.clock is None:
        return []
    told = []
    for start, delay in zip(events.starts, events.delays, strict=True):
        row = int(judged.order[start])
        when = row + 1 if time is None else str(X[time].iloc[row])
        machine = {} if judged.clock.machine is None else {"group": str(judged.clock.machine[row])}
        told.append({**machine, "start": when, "label": label[row], "delay": delay})
    return told


def _causes(judged: Judged, cause: NDArray[np.object_], right: NDArray[np.bool_]) -> dict[str, Estimate]:
    """How often a column at fault is blamed, by anomalies that alarmed, of a series by events that overlap a range."""
    names = [f"top_{k + 1}" for k in range(BLAMED)]
    if judged.events is None:
        blamed = (
            judged.table.select([name for name in names if name in judged.table.column_names]).to_pandas().to_numpy()
        )
        pairs = [(blamed[row], cause[row]) for row in np.flatnonzero(right) if cause[row] is not None]
    else:
        channels = judged.events[
            [f"channel_{k + 1}" for k in range(BLAMED) if f"channel_{k + 1}" in judged.events]
        ].to_numpy()
        causes = [next((c for c in cause[rows] if c is not None), None) for rows in judged.spans]
        pairs = [(one, c) for one, c in zip(channels, causes, strict=True) if c is not None]
    first = sum(blame[0] in named(fault) for blame, fault in pairs)
    among = sum(bool({*blame} & named(fault)) for blame, fault in pairs)
    found = {"first": rate(first, len(pairs)), f"first_{BLAMED}": rate(among, len(pairs))}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _worst(
    table: pa.Table, kinds: NDArray[Any] | None, wrong: NDArray[np.bool_], rank: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """The rows of a mistake, the worst first, without what they hold."""
    rows = np.flatnonzero(wrong)
    lines = []
    for row in rows[np.argsort(rank[rows], kind="stable")[:SHOWN]].tolist():
        told = {name: table.column(name)[row].as_py() for name in ("row", "anomaly_score", "p_value")}
        blamed = [
            table.column(f"top_{k + 1}")[row].as_py() for k in range(BLAMED) if f"top_{k + 1}" in table.column_names
        ]
        kind = {} if kinds is None else {"kind": str(kinds[row])}
        lines.append(told | kind | {"blamed": [name for name in blamed if name is not None]})
    return lines
