"""The job of `anomaly-ae refit`: a model that learns from newer rows, and remembers which one it comes from."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from sklearn.base import clone

from anomaly_ae import storage
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_page
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.folds import BLOCK
from anomaly_ae.loading import load
from anomaly_ae.mlflow.outbox import Input, now
from anomaly_ae.mlflow.registry import SCHEMES, pinned, resolve
from anomaly_ae.ops.arguments import Path_, Progress
from anomaly_ae.ops.describe import told_promise
from anomaly_ae.ops.fitting import check_register, entry, learn, publish_model, source, told_anomalies
from anomaly_ae.ops.series_reading import read
from anomaly_ae.ops.tally import nameless
from anomaly_ae.ops.tracking import digest, told_run, tracked
from anomaly_ae.promise import is_cross_fitted, promised, warn_of_alarms
from anomaly_ae.series.detector import SeriesDetector

DID = {"new": "learned anew", "warm": "went on learning", "threshold": "had its threshold set anew"}


@dataclass(frozen=True)
class RefitSummary:
    """What a refit was: which model became which, by which rows."""

    model: str
    comes_from: str
    how: str  # "new", "warm" or "threshold"
    data: str
    rows: int
    threshold_before: float
    threshold: float
    promised_false_alarm_rate: float | None
    cross_fitted: bool  # the promise is then twice the threshold's alpha
    generation: int  # how many refits the model has behind it
    seconds: float
    run_id: str | None = None
    tracking_uri: str | None = None
    registered: str | None = None  # models:/NAME/VERSION
    alias: str | None = None


def refit(
    model: Path_,
    data: Path_,
    to: Path_ | None = None,
    *,
    how: str = "new",
    dialect: Dialect | None = None,
    overwrite: bool = False,
    track: bool = False,
    progress: Progress | None = None,
    register: str | None = None,
    report: Path_ | None = None,
    known: Path_ | None = None,
) -> RefitSummary:
    """Have a model learn from newer normal rows: the same call and columns, other rows.

    Parameters
    ----------
    model : path
        The model folder, of rows or of series; or one of a registry.
    data : path
        CSV or Parquet file of normal rows.
    to : path or None, default=None
        Folder for the refitted model; `None` replaces `model`, which `overwrite` must allow.
    how : {"new", "warm", "threshold"}, default="new"
        Begin anew; go on from the weights, the scaling and the calibration that are there (`partial_fit`; only
        detectors of rows), which is much faster and for slow drift; or leave what was learned as it is and set
        threshold and p-values anew (`recalibrate`), by rows that no fit has seen.
    dialect : Dialect or None, default=None
        How text is written.
    overwrite : bool, default=False
        Replace a model that is there already.
    track : bool, default=False
        Log a run in MLflow.
    progress : callable or None, default=None
        Told the share that is done and what is being done.
    register : str or None, default=None
        Registered model that gets it as a new version.
    report : path or None, default=None
        HTML file for a page on the model.
    known : path or None, default=None
        CSV or Parquet file of rows that are known for anomalies, for a model that is to learn anew. One that was told
        some before needs it, for their rows are not kept.

    Raises
    ------
    AnomalyError
        When model, table or target are not what they must be; the model that is there then stays as it is.
    """
    started, began = time.perf_counter(), now()
    check_register(register, track)
    if how not in DID:
        raise ConfigError(f"A refit is one of {', '.join(DID)}, however: {how!r} was asked for. Choose one of them.")
    page = None if report is None else check_page(report, data, to)
    name = pinned(model)
    if to is None and name.startswith(SCHEMES):
        raise ConfigError(f"A refit needs a folder to write to, however: {name} is in a registry. Give one with --to.")
    target = storage.check_target(name if to is None else to, overwrite)
    folder = resolve(name)
    before = load(folder)
    if not hasattr(before, "lineage_"):
        raise ConfigError(
            f"A refit needs a detector, however: {name} is of {type(before).__name__}. Fit that in Python."
        )
    is_series = isinstance(before, SeriesDetector)
    if how == "warm" and is_series:
        raise ConfigError(f"A warm start needs a detector of rows, however: {name} is one of series. Take another how.")
    X = _read(before, Table.open(data, dialect))
    if how == "warm" and len(X) < before.rows_lacking:
        raise DataError(
            f"A warm start needs {before.rows_lacking} rows or more, of which every fifth calibrates, however: {data} "
            f"has {len(X)}. Give it more, or take another how."
        )
    was, threshold, read = digest(folder / "manifest.json"), float(before.threshold_.value_), source(data)
    lineage = [*before.lineage_, _parent(name, was, how, read, len(X))]
    detector = clone(before) if how == "new" else before
    if how == "new" and not is_series and detector.asks_for_labels() and known is None:
        raise ConfigError(
            f"A refit of a model that was told anomalies needs their rows again, however: {name} holds only what it "
            "made of them. Give --known."
        )
    if known is not None and is_series:
        raise ConfigError(f"Known anomalies need a model of rows, however: {name} is one of series. Leave --known out.")
    if known is not None and how != "new":
        raise ConfigError(
            f"Known anomalies need a model that learns anew, however: {how!r} was asked for. Leave --known or --how "
            "out."
        )
    anomalies, X = told_anomalies(detector, known, dialect, data, X)
    if how != "threshold":
        with contextlib.suppress(DataError):  # of rows that cannot be judged: what learns says what is wrong
            warn_of_alarms(before, before.anomaly_score(X), threshold)
    learn(detector, data, read, X, progress, how, anomalies)
    _refuse_others(before, detector, data)
    detector.lineage_ = lineage
    publish_model(detector, target, overwrite, page)
    summary = RefitSummary(
        model=str(target),
        comes_from=name,
        how=how,
        data=str(data),
        rows=len(X),
        threshold_before=threshold,
        threshold=float(detector.threshold_.value_),
        promised_false_alarm_rate=promised(detector),
        cross_fitted=is_cross_fitted(detector),
        generation=len(lineage),
        seconds=time.perf_counter() - started,
    )
    if not track:
        return summary
    return tracked(summary, lambda: entry(detector, target, read, began, register, did=f"refit ({how})", known=known))


def _parent(name: str, was: str, how: str, data: Input, rows: int) -> dict[str, Any]:
    """What a model says of the one that it comes from, without paths."""
    return {
        "model": nameless(name),
        "digest": was,
        "how": how,
        "data": data.name,
        "data_digest": data.digest,
        "rows": rows,
    }


def _refuse_others(before: Any, after: Any, data: Path_) -> None:
    """Refuse a file whose columns are not what they were: written otherwise, empty, or numbers that stand still."""
    for was, column in zip(before.contract_.columns, after.contract_.columns, strict=True):
        if column.kind != was.kind:
            found = f"was a {was.kind} and is a {column.kind}"
        elif column.missing == 1 > was.missing:
            found = "had values and has none"
        elif column.kind == "number" and column.constant and not was.constant:
            found = "varied and stands still"
        else:
            continue
        raise DataError(
            f"A refit needs columns that are what they were, however: in {data} {column.name!r} {found}. Say how the "
            "file is written (--delimiter, --decimal, --missing), repair it, or fit a new model."
        )


def _read(detector: Any, table: Table) -> Any:
    """The columns of a table that a model takes."""
    if isinstance(detector, SeriesDetector):
        return read(detector, table)[0]
    names = list(getattr(detector, "feature_names_in_", [])) or list(table.columns)
    table.require(names, "The model")
    return table.read(names, BLOCK)


def told(s: RefitSummary) -> str:
    """A refit for a person."""
    promise = told_promise(s.promised_false_alarm_rate, s.cross_fitted)
    return "\n".join(
        [
            f"refitted  {s.comes_from} {DID[s.how]} by {s.rows:,} rows of {s.data}, {s.seconds:.1f} s",
            f"threshold {s.threshold:.6g}, was {s.threshold_before:.6g}{promise}",
            f"model     {s.model}, refitted {s.generation} {'time' if s.generation == 1 else 'times'}",
            *told_run(s),
        ]
    )
