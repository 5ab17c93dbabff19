"""The job of `anomaly-ae evaluate`: a model judges rows whose labels are known, and is judged by them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_page, write_whole
from anomaly_ae.data.streams import STDIN
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError
from anomaly_ae.evaluation.detection import Detection, Promise, evaluate_scores
from anomaly_ae.evaluation.events import EventDetection, evaluate_events
from anomaly_ae.evaluation.intervals import Estimate, rate
from anomaly_ae.evaluation.robustness import robustness_curves
from anomaly_ae.folds import BLOCK
from anomaly_ae.loading import load
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import now
from anomaly_ae.mlflow.registry import pinned, resolve
from anomaly_ae.ops import series
from anomaly_ae.ops.arguments import Path_, Progress, tell
from anomaly_ae.ops.evaluation_page import ALIKE, evaluation_page
from anomaly_ae.ops.fitting import source
from anomaly_ae.ops.job import Job
from anomaly_ae.ops.labels import Clock, Labels, named
from anomaly_ae.ops.series_table import told_rows
from anomaly_ae.ops.series_times import laid
from anomaly_ae.ops.sinks import AS_TABLES, Gathered
from anomaly_ae.ops.tally import Allowed, nameless
from anomaly_ae.ops.tracking import Entry, digest, told_run, tracked, written
from anomaly_ae.promise import percent
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.series.timeline import moments

BLAMED = 3  # columns named a row
MOST = 2000  # rows that are spoilt, and whose codes are drawn
SHOWN = 20  # rows of each kind of mistake


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


class Judged(NamedTuple):
    """What a model says of rows: a table as `score` writes it, those of its columns that labels need, and the rest.

    `X` are at most some of the rows, as the model takes them, and `places` which; a series' are all. Of a series
    `clock` says when rows are, `order` puts them in order, and `spans` are the rows of each of its `events`.
    """

    table: pa.Table
    kept: pd.DataFrame
    total: int
    rejected: int
    X: pd.DataFrame
    places: NDArray[np.intp]
    clock: Clock | None = None
    order: NDArray[np.intp] | None = None
    events: pd.DataFrame | None = None
    spans: Sequence[NDArray[np.intp]] = ()


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
    if str(input) == STDIN:
        raise ConfigError("An evaluation needs a file, which it reads more than once, however: -. Give its name.")
    page = None if report is None else check_page(report, input, labels.file)
    name = pinned(model)
    folder = resolve(name)
    detector = load(folder)
    judge = _series if isinstance(detector, SeriesDetector) else _table
    judged = judge(detector, input, labels, dialect or Dialect(), progress)
    rows = judged.table.column("row").to_numpy()
    y, kinds, cause = labels.of(rows, judged.kept, judged.total, dialect or Dialect(), judged.clock)
    score, p_value, alarm = (judged.table.column(n).to_numpy() for n in ("anomaly_score", "p_value", "is_anomaly"))
    several = len(np.unique(kinds[y == -1].astype(str))) > 1
    found = evaluate_scores(
        y, score, alarm, p_value, kinds=kinds if several else None, prevalence=prevalence, promise=Promise.of(detector)
    )
    events = _events(judged, y, score)
    curves = None
    if robustness:
        tell(progress, 0.8, "spoiling rows")
        curves = robustness_curves(detector, judged.X, y[judged.places], columns=_measured(detector, judged.X))
    worst = partial(_worst, judged.table, kinds if several else None)
    summary = EvaluationSummary(
        model=name,
        input=str(input),
        label=labels.column,
        rows=judged.total,
        rejected=judged.rejected,
        detection=found,
        events=events,
        ranges=_ranges(detector, judged, events, kinds),
        causes=None if labels.cause is None else _causes(judged, cause, (y == -1) & alarm),
        robustness=None if curves is None else curves.to_dict("records"),
        missed=worst((y == -1) & ~alarm, score),
        false_alarms=worst((y == 1) & alarm, -score),
        threshold=detector.threshold_.value_,
        metrics=metrics(found, events),
        seconds=time.perf_counter() - started,
    )
    codes = _codes(detector, judged)
    drawn = partial(evaluation_page, known=y, score=score, codes=codes, of=y[judged.places])
    if page is not None:
        tell(progress, 0.95, "drawing")
        write_whole(page, drawn(asdict(summary)))
    if not track:
        return summary

    def run() -> Entry:
        plain = asdict(summary) | {"model": nameless(name), "input": Path(input).name}
        of = runs.Model(nameless(name), digest(folder / "manifest.json"))
        record = runs.of_score(source(input), of, began, summary.metrics, {}, "evaluate")
        files = {"evaluation.json": json.dumps(plain, indent=1) + "\n"}
        return record, {**files, **written(lambda: drawn(plain))}, None

    return tracked(summary, run)


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


# --- what the model says ---------------------------------------------------------------------------------------------


def _table(detector: Any, input: Path_, labels: Labels, dialect: Dialect, progress: Progress | None) -> Judged:
    job = Job([detector], [str(input)], False, dialect, labels.beside, BLAMED)
    sink = Gathered()
    tally = job.run(sink, AS_TABLES, Allowed.of("1%"), lambda share, what: tell(progress, 0.7 * share, what))
    table = pa.concat_tables(sink.tables)
    rows = table.column("row").to_numpy()
    places = np.unique(np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(np.intp))
    X = _rows(detector, Table.open(input, dialect), rows[places])
    return Judged(table, table.select(labels.beside).to_pandas(), tally.rows, tally.rejected, X, places)


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
    X, kept = series.read(detector, Table.open(input, dialect), labels.beside, progress)
    told = told_rows(detector, X, {}, BLAMED)
    when = np.arange(1.0, len(X) + 1) if detector.time is None else moments(X[detector.time], detector.time)
    machine = None if detector.group is None else X[detector.group].astype(str).to_numpy(dtype=object)
    clock, order = Clock(when, machine, detector.group), laid(detector, X).order
    beside = pd.DataFrame(kept, index=X.index)
    return Judged(told.table, beside, len(X), 0, X, np.arange(len(X)), clock, order, told.events, told.spans)


def _measured(detector: Any, X: pd.DataFrame) -> list[str]:
    """Columns of numbers that the model judges."""
    beside = [getattr(detector, "time", None), getattr(detector, "group", None)]
    return [name for name in X.select_dtypes("number").columns if name not in beside]


def _codes(detector: Any, judged: Judged) -> NDArray[np.float64] | None:
    """Codes of some rows, of a detector that has codes of rows."""
    return None if judged.order is not None or not hasattr(detector, "transform") else detector.transform(judged.X)


# --- what is found ---------------------------------------------------------------------------------------------------


def _events(judged: Judged, y: NDArray[np.int64], score: NDArray[np.float64]) -> EventDetection | None:
    if judged.clock is None or judged.order is None:
        return None
    event, order, machine = judged.table.column("event").fill_null(0).to_numpy(), judged.order, judged.clock.machine
    return evaluate_events(
        (y == -1)[order], event[order], score[order], series=None if machine is None else machine[order]
    )


def _ranges(
    detector: Any, judged: Judged, events: EventDetection | None, label: NDArray[np.object_]
) -> list[dict[str, Any]]:
    if events is None or judged.order is None or judged.clock is None:
        return []
    told = []
    for start, delay in zip(events.starts, events.delays, strict=True):
        row = int(judged.order[start])
        when = row + 1 if detector.time is None else str(judged.X[detector.time].iloc[row])
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


# --- for a person ----------------------------------------------------------------------------------------------------


def told(s: EvaluationSummary) -> str:
    """An evaluation for a person."""
    d = s.detection
    lines = [
        f"evaluated {d.rows:,} rows, {d.anomalies:,} of them anomalies ({d.anomalies / d.rows:.2%}), "
        f"in {s.seconds:.1f} s",
    ]
    if d.unlabelled or s.rejected:
        lines.append(f"note      {d.unlabelled:,} rows without a label and {s.rejected:,} bad ones are left out")
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
            f"  {p.alpha:<12g} {p.alarms:>9,} {p.recall:>8.3f} {p.false_alarm_rate:>8.4f} {_share(p.precision):>10}"
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
    found = sum(delay is not None for delay in e.delays)
    late = "" if e.median_delay is None else f", {e.median_delay:g} rows after they began (median)"
    vus = "" if e.vus_pr is None else f"; VUS-PR {e.vus_pr:.3f}"
    return f"events    {found} of {e.ranges} ranges found{late}; {e.false_events} of {e.events} events are false{vus}"


def told_range(one: Mapping[str, Any]) -> str:
    """A labelled range, and whether it was found."""
    delay = one["delay"]
    found = "missed" if delay is None else "found at once" if not delay else f"found after {delay} rows"
    return f"  {' '.join([*([one['group']] if 'group' in one else []), str(one['start'])])}  {one['label']}  {found}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
