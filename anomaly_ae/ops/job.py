"""The two jobs of the shell: fit a model from a file, score a file with a model."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from anomaly_ae import config as configuration
from anomaly_ae import storage
from anomaly_ae.columns import MIN_ROWS
from anomaly_ae.data.tables import Block, Output, Table, check_output
from anomaly_ae.detectors import AutoencoderDetector, load
from anomaly_ae.errors import AnomalyError, ConfigError, DataError
from anomaly_ae.estimator import Detector
from anomaly_ae.explanation import Verdict
from anomaly_ae.folds import BLOCK
from anomaly_ae.scoring.attribution import top
from anomaly_ae.scoring.calibration import Reservoir
from anomaly_ae.scoring.thresholds import promised_rate

Progress = Callable[[float, str], None]  # share done in [0, 1], and what is being done
Path_ = str | os.PathLike[str]
TOP_ROWS = 5  # of the summary
HISTOGRAM_ROWS = 100_000


@dataclass(frozen=True)
class FitSummary:
    """What a fit was: for people, for `--json`, and for the run in MLflow."""

    model: str
    data: str
    rows: int
    columns: list[str]
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


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring job was: for people, for `--json`, and for the run in MLflow."""

    model: str
    input: str
    output: str
    rows: int
    alarms: int
    alarm_rate: float
    promised_false_alarm_rate: float | None
    threshold: float
    ignored_columns: list[str]
    top_anomalies: list[dict[str, Any]]
    seconds: float
    run_id: str | None = None
    tracking_uri: str | None = None


def fit(
    data: Path_,
    model: Path_,
    config: Path_ | None = None,
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    track: bool = True,
    progress: Progress | None = None,
) -> FitSummary:
    """Fit the detector of a YAML file (default: `AutoencoderDetector(random_state=0)`) on all rows of a table.

    The model folder is published first, the run logged after it; a run that cannot be logged is a warning.

    Raises
    ------
    AnomalyError
        When configuration, table or target are not what they must be; nothing is then written.
    """
    started = time.perf_counter()
    target = storage.check_target(model, overwrite)
    detector, text = configuration.load(config) if config is not None else (AutoencoderDetector(random_state=0), "")
    table = Table.open(data)
    table.require(exclude, "--exclude")
    columns = [name for name in table.columns if name not in set(exclude)]
    if not columns:
        raise DataError(f"A model needs a column, however: all of {data} are left out. Leave fewer out.")
    X = table.read(columns, BLOCK, lambda share: _tell(progress, 0.1 * share, "reading"))
    if len(X) < MIN_ROWS:
        raise DataError(f"A model needs {MIN_ROWS} rows or more, however: {data} has {len(X)}. Give it more.")
    if progress is not None:
        detector.set_callbacks(_EpochProgress(progress))
    with _said_of(data):
        detector.fit(X)
    detector.set_callbacks()
    detector.save(target, overwrite)
    summary = FitSummary(
        model=str(target),
        data=str(data),
        rows=len(X),
        columns=columns,
        constant_columns=[column.name for column in detector.contract_.columns if column.constant],
        detector=repr(detector),
        nets=len(detector.folds_),
        epochs=int(detector.history_["epoch"].max()),
        threshold=detector.threshold_.value_,
        promised_false_alarm_rate=promised_rate(detector.threshold_),
        p_value_resolution=detector.threshold_.resolution_,
        seconds=time.perf_counter() - started,
    )
    return _tracked(summary, lambda: _log_fit(detector, target, Path(data), text)) if track else summary


def score(
    model: Path_,
    input: Path_,
    output: Path_,
    keep: Sequence[str] = (),
    top_columns: int = 3,
    overwrite: bool = False,
    track: bool = True,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score every row of a table; memory does not grow with its length.

    Columns out: `row` (1-based), those of `keep`, `anomaly_score`, `p_value`, `is_anomaly`, then `top_1`,
    `top_1_share` and so on, and of alarms the `reasons` ("temperature 93.1, expected 61 to 67"). The output appears
    complete or not at all; the run is logged after it.

    Raises
    ------
    AnomalyError
        When model, table or output are not what they must be; nothing is then written.
    """
    started = time.perf_counter()
    target = check_output(output, overwrite)
    detector = load(model)
    table = Table.open(input)
    if target.exists() and target.samefile(table.path):
        raise ConfigError(f"A job needs an output besides its input, however: both are {target}. Choose another.")
    names = _columns(detector, table)
    blamed = [f"top_{k + 1}{suffix}" for k in range(min(top_columns, len(names))) for suffix in ("", "_share")]
    reserved = ["row", "anomaly_score", "p_value", "is_anomaly", *blamed, "reasons"]
    table.require(keep, "--keep")
    if clash := sorted(set(keep) & set(reserved)) + [name for name in set(keep) if list(keep).count(name) > 1]:
        raise ConfigError(f"--keep needs columns that the output has not yet, however: {clash}. Rename or leave out.")
    rows = alarms = 0
    strangest: list[tuple[float, int, dict[str, Any]]] = []
    sample, rng = Reservoir(HISTOGRAM_ROWS, 1), np.random.RandomState(0)
    with Output(target, overwrite) as out:
        for block in table.blocks(*_kinds(detector, names), keep, BLOCK):
            verdict = _assess(detector, block.X[names], table)
            ranked = top(verdict.contributions, len(blamed) // 2)
            expected = _expected(detector, block.X[names], verdict, len(blamed) // 2)
            out.write(_rows(block, verdict, names, ranked, expected))
            rows, alarms = rows + len(block.X), alarms + int(verdict.is_anomaly.sum())
            strangest = heapq.nlargest(TOP_ROWS, strangest + _strangest(block, verdict, names, ranked, expected))
            sample.add(verdict.anomaly_score[:, None], rng)
            _tell(progress, block.share_read, "scoring")
    summary = ScoreSummary(
        model=str(model),
        input=str(input),
        output=str(target),
        rows=rows,
        alarms=alarms,
        alarm_rate=alarms / rows,
        promised_false_alarm_rate=promised_rate(detector.threshold_),
        threshold=detector.threshold_.value_,
        ignored_columns=[name for name in table.columns if name not in {*names, *keep}],
        top_anomalies=[row for _, _, row in strangest],
        seconds=time.perf_counter() - started,
    )
    return _tracked(summary, lambda: _log_score(detector, summary, sample.rows[:, 0])) if track else summary


def _columns(detector: Detector, table: Table) -> list[str]:
    """The table's columns that the model takes, in the model's order."""
    if _named(detector):
        names = list(detector.feature_names_in_)
        table.require(names, "The model")
        return names
    if len(table.columns) != detector.n_features_in_:
        raise DataError(
            f"A model fitted without column names needs tables of its {detector.n_features_in_} columns, however: "
            f"{table.path} has {len(table.columns)}. Fit it on a DataFrame to have columns chosen by name."
        )
    return list(table.columns)


def _kinds(detector: Detector, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns that the model takes for numbers, and the others."""
    numbers = [name for name, column in zip(names, detector.contract_.columns, strict=True) if column.kind == "number"]
    return numbers, [name for name in names if name not in set(numbers)]


def _assess(detector: Detector, X: pd.DataFrame, table: Table) -> Verdict:
    with _said_of(table.path):
        return detector.assess(X if _named(detector) else X.to_numpy())


@contextlib.contextmanager
def _said_of(path: Path_) -> Iterator[None]:
    """What is wrong with rows is said with the file that they are from."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _named(detector: Detector) -> bool:
    return hasattr(detector, "feature_names_in_")


Ranked = tuple[np.ndarray, np.ndarray]
Expectations = dict[int, dict[str, tuple[str, str]]]  # by row of a block and column: what is there, what was expected


def _expected(detector: Detector, X: pd.DataFrame, verdict: Verdict, top_columns: int) -> Expectations:
    """What was expected of the blamed columns of a block's alarms and strangest rows."""
    told = verdict.is_anomaly.copy()
    told[np.argsort(-verdict.anomaly_score, kind="stable")[:TOP_ROWS]] = True
    if not top_columns:
        return {}
    places, names = np.flatnonzero(told), dict(zip(detector.contract_.names, X.columns, strict=True))
    some = X.iloc[places]
    reasons = detector.reasons(some if _named(detector) else some.to_numpy(), top_columns)
    expectations: Expectations = {}
    for row, column, value, expected in reasons[["row", "column", "value", "expected"]].itertuples(index=False):
        expectations.setdefault(int(places[row]), {})[names[column]] = value, expected
    return expectations


def _rows(block: Block, verdict: Verdict, names: Sequence[str], ranked: Ranked, expectations: Expectations) -> pa.Table:
    n = len(block.X)
    columns: dict[str, Any] = {"row": np.arange(block.first_row, block.first_row + n)}
    columns |= {name: block.kept.column(name) for name in block.kept.column_names}
    columns |= {"anomaly_score": verdict.anomaly_score, "p_value": verdict.p_value, "is_anomaly": verdict.is_anomaly}
    which, share = ranked
    for k in range(which.shape[1]):
        columns[f"top_{k + 1}"] = np.asarray(names, dtype=object)[which[:, k]]
        columns[f"top_{k + 1}_share"] = share[:, k]
    if which.shape[1]:
        alarms = {row: columns for row, columns in expectations.items() if verdict.is_anomaly[row]}
        columns["reasons"] = pa.array([_reasons(alarms.get(row, {})) or None for row in range(n)], pa.string())
    return pa.table(columns)


def _reasons(expectations: dict[str, tuple[str, str]]) -> str:
    return "; ".join(f"{name} {value}, expected {wanted}" for name, (value, wanted) in expectations.items())


def _strangest(
    block: Block, verdict: Verdict, names: Sequence[str], ranked: Ranked, expectations: Expectations
) -> list[tuple[float, int, dict[str, Any]]]:
    """The strangest rows of a block as (score, -row, description), so that ties go to the earlier row."""
    which, share = ranked
    order = np.argsort(-verdict.anomaly_score, kind="stable")[:TOP_ROWS]
    return [
        (
            float(verdict.anomaly_score[i]),
            -(block.first_row + int(i)),
            {
                "row": block.first_row + int(i),
                **{name: block.kept.column(name)[int(i)].as_py() for name in block.kept.column_names},
                "anomaly_score": float(verdict.anomaly_score[i]),
                "p_value": float(verdict.p_value[i]),
                "is_anomaly": bool(verdict.is_anomaly[i]),
                "blamed": {
                    names[j]: {"share": float(s), "value": _plain(block.X[names[j]].iloc[i])}
                    for j, s in zip(which[i], share[i], strict=True)
                },
                "reasons": _reasons(expectations.get(int(i), {})),
            },
        )
        for i in order
    ]


def _plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if pd.isna(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else str(value)


class _EpochProgress:
    """scikit-learn callback that tells how far a fit is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def setup(self, estimator: Any, context: Any) -> None:
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        if context.task_name == "epoch":
            net = context.parent
            nets = net.parent.max_subtasks
            done = (net.task_id + (context.task_id + 1) / net.max_subtasks) / nets
            self.progress(0.1 + 0.9 * done, f"training net {net.task_id + 1} of {nets}, epoch {context.task_id + 1}")


def _tell(progress: Progress | None, share: float, what: str) -> None:
    if progress is not None:
        progress(share, what)


Summary = TypeVar("Summary", FitSummary, ScoreSummary)


def _tracked(summary: Summary, log: Callable[[], str]) -> Summary:
    """The summary with its run; the result is published already, so a run that fails to be logged is only a warning."""
    from anomaly_ae import mlflow

    try:
        run_id = log()
    except Exception as error:
        reason = str(error) if isinstance(error, AnomalyError) else f"Tracking failed: {type(error).__name__}: {error}"
        warnings.warn(f"{' '.join(reason.split())[:500]} The result is complete.", UserWarning, stacklevel=2)
        return summary
    return type(summary)(**{**asdict(summary), "run_id": run_id, "tracking_uri": mlflow.tracking_uri()})


def _log_fit(detector: Detector, model: Path, data: Path, config: str) -> str:
    from anomaly_ae import mlflow
    from anomaly_ae.ops.report import score_histogram

    figure = score_histogram(detector.calibration_scores_, detector.threshold_.value_, "Calibrate rows")
    text = config or configuration.dumps(detector)
    return mlflow.log_fit(detector, data, _digest(data), model, _digest(model / "manifest.json"), text, figure)


def _log_score(detector: Detector, summary: ScoreSummary, sample: np.ndarray) -> str:
    from anomaly_ae import mlflow
    from anomaly_ae.ops.report import score_histogram

    model, source = Path(summary.model), Path(summary.input)
    figure = score_histogram(sample, summary.threshold, source.name, detector.calibration_scores_)
    numbers = {"alarms": summary.alarms, "alarm_rate": summary.alarm_rate, "threshold": summary.threshold}
    if summary.promised_false_alarm_rate is not None:
        numbers["promised_false_alarm_rate"] = summary.promised_false_alarm_rate
    numbers |= {"seconds": summary.seconds, "score_median": float(np.median(sample)), "score_max": float(sample.max())}
    digests = _digest(source), _digest(model / "manifest.json")
    return mlflow.log_score(source, digests[0], summary.rows, model, digests[1], numbers, asdict(summary), figure)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
