"""The job of `anomaly-ae fit`: a model folder from a file of normal rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from anomaly_ae import config as configuration
from anomaly_ae import storage
from anomaly_ae.columns import MIN_ROWS
from anomaly_ae.data.contract import listed
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_page, write_whole
from anomaly_ae.data.tables import Table
from anomaly_ae.detectors import AutoencoderDetector
from anomaly_ae.errors import ConfigError, DataError, warn
from anomaly_ae.folds import BLOCK
from anomaly_ae.mlflow import runs
from anomaly_ae.mlflow.outbox import Input, now
from anomaly_ae.mlflow.registry import check_name
from anomaly_ae.ops.arguments import Path_, Progress, tell
from anomaly_ae.ops.describe import describe, told, told_ignored, told_promise
from anomaly_ae.ops.report import fit_page
from anomaly_ae.ops.tracking import Entry, digest, picture, told_run, tracked, written
from anomaly_ae.promise import promised
from anomaly_ae.ranges import PROPER_SHARE, check_range
from anomaly_ae.scoring.known import KnownAnomalies
from anomaly_ae.scoring.thresholds import Conformal

if TYPE_CHECKING:
    from anomaly_ae.estimator import Detector
    from anomaly_ae.series.detector import SeriesDetector  # a fit on rows need not wait for it

LEARNS = {"new": "fit", "warm": "partial_fit", "threshold": "recalibrate"}  # the method of a detector


@dataclass(frozen=True)
class FitSummary:
    """What a fit was: for people, for `--json`, and for the run in MLflow."""

    model: str
    data: str
    rows: int
    known: str | None  # file of rows known for anomalies, and how many these are
    known_anomalies: int
    left_out: int  # rows of the data that are among them
    columns: list[str]
    ignored_columns: list[str]  # those without a name, where there are several
    constant_columns: list[str]
    detector: str
    nets: int
    epochs: int
    threshold: float
    promised_false_alarm_rate: float | None
    p_value_resolution: float
    seconds: float
    run_id: str | None = None
    tracking_uri: str | None = None
    registered: str | None = None  # models:/NAME/VERSION
    alias: str | None = None


def fit(
    data: Path_,
    model: Path_,
    config: Path_ | None = None,
    exclude: Sequence[str] = (),
    dialect: Dialect | None = None,
    overwrite: bool = False,
    track: bool = True,
    progress: Progress | None = None,
    register: str | None = None,
    report: Path_ | None = None,
    known: Path_ | None = None,
    alpha: float | None = None,
) -> FitSummary:
    """Fit the detector of a YAML file (default: `AutoencoderDetector(random_state=0)`) on all rows of a table.

    The model folder is published first, the run logged after it; a run that cannot be logged is a warning. `register`
    names a registered model that gets it as a new version: the first is the champion, later ones are challengers.
    `report` is an HTML file for a page on the model. `known` is a table of rows that are known for anomalies, which a
    detector without `labels` of its own learns from as `KnownAnomalies()` does. `alpha` is the rate of false alarms to
    promise, whatever the YAML file says of it.

    Raises
    ------
    AnomalyError
        When configuration, table or target are not what they must be; nothing is then written.
    """
    started, began = time.perf_counter(), now()
    check_register(register, track)
    page = None if report is None else check_page(report, data, config, model)
    target = storage.check_target(model, overwrite)
    detector, text = configuration.load(config) if config is not None else (AutoencoderDetector(random_state=0), "")
    if alpha is not None:
        set_rate(detector, alpha, config)
        text = ""  # the configuration is no longer as it was written
    table = Table.open(data, dialect)
    table.require(exclude, "--exclude")
    columns = [name for name in table.columns if name not in set(exclude)]
    if not columns:
        raise DataError(f"A model needs a column, however: all of {data} are left out. Leave fewer out.")
    X = table.read(columns, BLOCK, lambda share: tell(progress, 0.1 * share, "reading"))
    rows, read = len(X), source(data)
    anomalies, X = told_anomalies(detector, known, dialect, data, X)
    learn(detector, data, read, X, progress, anomalies=anomalies)
    publish_model(detector, target, overwrite, page)
    summary = FitSummary(
        model=str(target),
        data=str(data),
        rows=len(X),
        known=None if known is None else str(known),
        known_anomalies=0 if anomalies is None else len(anomalies),
        left_out=rows - len(X),
        columns=columns,
        ignored_columns=list(table.nameless),
        constant_columns=[column.name for column in detector.contract_.columns if column.constant],
        detector=repr(detector),
        nets=len(detector.folds_),
        epochs=int(detector.history_["epoch"].max()),
        threshold=detector.threshold_.value_,
        promised_false_alarm_rate=promised(detector),
        p_value_resolution=detector.threshold_.resolution_,
        seconds=time.perf_counter() - started,
    )
    if not track:
        return summary
    return tracked(summary, lambda: entry(detector, target, read, began, register, text, known=known))


def set_rate(detector: Detector | SeriesDetector, alpha: float, config: Path_ | None) -> None:
    """Have a detector, that of a `config` if there is one, promise a rate of false alarms.

    Raises
    ------
    ConfigError
        Where its threshold promises none, or none such.
    """
    threshold = detector.parts()["threshold"]
    if not isinstance(threshold, Conformal):
        raise ConfigError(
            f"--alpha needs a threshold that promises a rate of false alarms, however: {config} has {threshold!r}. "
            f"Leave --alpha out, or write threshold: {{Conformal: {{alpha: {alpha:g}}}}}."
        )
    detector.set_params(threshold__alpha=alpha)
    check_range(detector.threshold, PROPER_SHARE, "alpha")


def check_register(register: str | None, track: bool) -> None:
    """Refuse, before any work is done, a version that could not be made after it."""
    if register is not None:
        check_name(register)
        if not track:
            raise ConfigError("A registered model needs a run, however: tracking is off. Leave --no-track out.")


def publish_model(detector: Any, target: Path, overwrite: bool, page: Path | None) -> None:
    """Write the model folder, and then a page on it where one is asked for."""
    detector.save(target, overwrite)
    if page is not None:
        write_whole(page, fit_page(detector, told(describe(detector)), target.name))


def source(data: Path_) -> Input:
    """A file of rows by its name and what it holds."""
    return Input(Path(data).name, digest(Path(data)))


def entry(
    detector: Detector | SeriesDetector,
    model: Path,
    data: Input,
    began: int,
    register: str | None,
    config: str = "",
    did: str = "fit",
    known: Path_ | None = None,
) -> Entry:
    """What the run of a fit is to say: names and digests, no paths."""
    from anomaly_ae.ops.pictures import score_histogram

    who = runs.Model(model.name, digest(model / "manifest.json"))
    record = runs.of_fit(detector, data, who, began, register, did)
    if known is not None:
        told_of = source(known)
        tags = {"anomaly_ae.known": told_of.name, "anomaly_ae.known_digest": told_of.digest}
        record = replace(record, tags={**record.tags, **tags})
    scores, threshold = detector.calibration_scores_, detector.threshold_.value_
    drawn = picture(lambda: score_histogram(scores, threshold, "Calibrate rows"))
    page = written(lambda: fit_page(detector, told(describe(detector)), model.name))
    return record, {"config.yaml": config or configuration.dumps(detector), **page, **drawn}, model


def told_anomalies(
    detector: Any, known: Path_ | None, dialect: Dialect | None, data: Path_, X: pd.DataFrame
) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """Rows of a table that are known for anomalies, for a detector that will learn from them, and `X` without these.

    Without a table there are none.

    Raises
    ------
    DataError
        Where columns lack, or hold something else than those of `X`, which are of `data`.
    """
    if known is None:
        return None, X
    if not detector.asks_for_labels():
        detector.set_params(labels=KnownAnomalies())
    table = Table.open(known, dialect)
    columns = [str(name) for name in X]
    table.require(columns, "--known")
    anomalies = table.read(columns, BLOCK)
    for name in columns:
        kinds = [pd.api.types.is_numeric_dtype(rows[name].dropna().infer_objects().dtype) for rows in (X, anomalies)]
        if kinds[0] != kinds[1] and anomalies[name].notna().any():
            raise DataError(
                f"Known anomalies need columns as normal rows have them, however: {name!r} has "
                f"{anomalies[name].dropna().iloc[0]!r} in {known}, and {X[name].dropna().iloc[0]!r} in {data}. Repair "
                "it."
            )
    digests = pd.util.hash_pandas_object(pd.concat([X, anomalies], ignore_index=True), index=False).to_numpy()
    both = np.isin(digests[: len(X)], digests[len(X) :])
    return anomalies, X[~both]


def learn(
    detector: Any,
    data: Path_,
    read: Input,
    X: Any,
    progress: Progress | None = None,
    how: str = "new",
    anomalies: Any = None,
) -> None:
    """Have a detector learn from rows, of the file `read`: a "new" fit, a "warm" one, or one of the "threshold" alone.

    A new fit may be told `anomalies`, rows that are known for such.

    Warns
    -----
    UserWarning
        Of a threshold by the rows of a file that it learned from.

    Raises
    ------
    DataError
        Rows that it cannot learn from, or too few; it names the file.
    """
    if len(X) < MIN_ROWS:
        raise DataError(f"A model needs {MIN_ROWS} rows or more, however: {data} has {len(X)}. Give it more.")
    if how == "threshold" and read.digest in detector.files_:
        warn(
            f"A threshold needs rows that no fit has seen, however: the model learned from {data}. It will be too low, "
            "and alarms of new rows more than promised: take others."
        )
    if progress is not None:
        detector.set_callbacks(_FitProgress(progress))
    rows: tuple[Any, ...] = (X,)
    if anomalies is not None:
        both = pd.concat([X, anomalies], ignore_index=True)
        rows = (both, np.arange(len(both)) >= len(X))
    try:
        getattr(detector, LEARNS[how])(*rows)
    except DataError as error:
        raise DataError(f"{data}: {error}") from error
    finally:
        detector.set_callbacks()
    if how != "threshold":
        detector.files_ = [*detector.files_, read.digest]


class _FitProgress:
    """scikit-learn callback that tells how far a fit is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def setup(self, estimator: Any, context: Any) -> None:
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        if context.parent is None:
            return
        at_epoch = context.task_name == "epoch"
        net = context.parent if at_epoch else context
        of_net = (context.task_id + 1) / net.max_subtasks if at_epoch else 1.0
        nets = net.parent.max_subtasks
        what = f"learning {net.task_id + 1} of {nets}" + (f", epoch {context.task_id + 1}" if at_epoch else "")
        self.progress(0.1 + 0.9 * (net.task_id + of_net) / nets, what)


def told_fit(s: FitSummary) -> str:
    """A fit for a person."""
    promise = told_promise(s.promised_false_alarm_rate, s.nets > 1)
    epochs = "one epoch" if s.epochs == 1 else f"at most {s.epochs} epochs"
    lines = [
        f"fitted    {s.detector}",
        f"rows      {s.rows:,} of {len(s.columns)} columns from {s.data}, {s.seconds:.1f} s, {epochs}",
        *told_ignored(s),
        f"threshold {s.threshold:.6g}{promise}",
        f"model     {s.model}",
    ]
    if s.known_anomalies:
        left_out = f"; {s.left_out:,} of the normal rows are among them, and left out" if s.left_out else ""
        lines.insert(2, f"known     {s.known_anomalies:,} rows known for anomalies, from {s.known}{left_out}")
    if s.constant_columns:
        lines.insert(2, f"note      constant in these rows: {listed(s.constant_columns)}")
    return "\n".join(lines + told_run(s))
