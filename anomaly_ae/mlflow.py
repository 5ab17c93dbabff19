"""The only `import mlflow`: runs of fitting and scoring jobs, and a callback for fits in Python.

The store of the jobs is that of `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; the experiment is
that of `MLFLOW_EXPERIMENT_NAME`, else "anomaly-ae".
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_ae.errors import ConfigError, MissingExtraError
from anomaly_ae.estimator import Detector
from anomaly_ae.scoring.thresholds import promised_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "anomaly-ae"
KIND = "mlflow.experimentKind"
Point = tuple[str, float, int, int]  # of a curve: metric, value, time in milliseconds, epoch


def tracking_uri() -> str:
    """Where runs go."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a firewall would make it wait
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtraError(
            "Tracking needs mlflow, however: it is not installed. Run pip install 'anomaly-ae[mlflow]', or do without "
            "tracking (--no-track)."
        ) from error
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the first use of a database is not news
    return mlflow


@contextlib.contextmanager
def run(kind: str, name: str, source: Path, digest: str, rows: int) -> Iterator[Any]:
    """A run of one job, with its input as a dataset; yields the `mlflow` module, closes the run as failed on error."""
    mlflow = _mlflow()
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    mlflow.set_tracking_uri(tracking_uri())
    experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
    if KIND not in experiment.tags:  # without it the pages open on the traces of language models
        mlflow.set_experiment_tag(KIND, "custom_model_development")
    with mlflow.start_run(run_name=name, tags={"anomaly_ae.job": kind}):
        with warnings.catch_warnings():  # it warns that a path may be a path in two ways
            warnings.simplefilter("ignore", UserWarning)
            place = resolve_dataset_source(str(source.absolute()))
        dataset = MetaDataset(  # type: ignore[abstract]
            place, name=source.name, digest=digest[:12]
        )
        mlflow.log_input(dataset, context={"fit": "training", "score": "scoring"}[kind])
        mlflow.log_metric("rows", rows)
        yield mlflow


def log_fit(
    detector: Detector,
    source: Path,
    digest: str,
    model: Path,
    model_digest: str,
    config: str,
    figure: Figure,
) -> str:
    """Log parameters, curves, threshold, config verbatim, histogram and model folder; returns the run's id."""
    name = f"fit {type(detector).__name__} on {source.name}"
    with run("fit", name, source, digest, detector.n_rows_seen_) as mlflow:
        mlflow.set_tags({"anomaly_ae.model": str(model.absolute()), "anomaly_ae.model_digest": model_digest})
        mlflow.log_params(_parameters(detector))
        mlflow.log_metrics(
            {"threshold": detector.threshold_.value_, "p_value_resolution": detector.threshold_.resolution_}
        )
        _log_curves(mlflow, detector)
        mlflow.log_text(config, "config.yaml")
        mlflow.log_figure(figure, "score_histogram.png", save_kwargs={"dpi": 120})
        mlflow.log_artifacts(str(model), "model")
        return str(mlflow.active_run().info.run_id)


def log_score(
    source: Path,
    digest: str,
    rows: int,
    model: Path,
    model_digest: str,
    metrics: Mapping[str, float],
    summary: Mapping[str, Any],
    figure: Figure,
) -> str:
    """Log a scoring job: metrics, summary, histogram, and which model it was. Returns the run's id."""
    with run("score", f"score {source.name}", source, digest, rows) as mlflow:
        mlflow.set_tags({"anomaly_ae.model": str(model.absolute()), "anomaly_ae.model_digest": model_digest})
        mlflow.log_metrics(dict(metrics))
        mlflow.log_dict(dict(summary), "summary.json")
        mlflow.log_figure(figure, "score_histogram.png", save_kwargs={"dpi": 120})
        return str(mlflow.active_run().info.run_id)


def _parameters(detector: Detector) -> dict[str, Any]:
    """Every hyperparameter that was in force, the defaults' included."""
    own = {name: value for name, value in detector.get_params(deep=False).items() if name not in detector.parts()}
    for axis, part in detector.parts().items():
        own[axis] = type(part).__name__ if part is not None else None
        if part is not None:
            own |= {f"{axis}.{name}": value for name, value in part.get_params(deep=False).items()}
    return own


def _log_curves(mlflow: Any, detector: Detector) -> None:
    """One point an epoch, the mean over the nets that got that far; in one request a thousand points."""
    curves = detector.history_.drop(columns=["net"]).groupby("epoch").mean()
    now = int(time.time() * 1000)
    points = [
        (name, value, now, epoch)
        for name in curves.columns
        for epoch, value in zip(curves.index.tolist(), curves[name].tolist(), strict=True)
    ]
    _log_points(mlflow, mlflow.active_run().info.run_id, points)


def _log_points(mlflow: Any, run_id: str, points: list[Point]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points if not math.isnan(point[1])]
    for start in range(0, len(metrics), 1000):  # more than that a store refuses
        mlflow.MlflowClient().log_batch(run_id, metrics=metrics[start : start + 1000])


class LogEpochs:
    """Callback that logs one fit into MLflow's active run, epoch by epoch, as curves that grow while it trains.

    Each epoch's record (loss and its terms, validate loss, learning rate, seconds) becomes metrics of that step:
    `loss` where there is one net, `net_1/loss`, `net_2/loss` and so on in cross-fitting. When the fit ends it adds
    the parameters that were in force, the defaults' included, `threshold`, `p_value_resolution` and, where the
    threshold promises one, `promised_false_alarm_rate`. A fit that fails keeps the curves it has got to.

    Parameters
    ----------
    every : float >= 0, default=1.0
        Seconds between requests to the store; epochs that end in between go together.

    Raises
    ------
    ConfigError
        At `fit`, where no run is active, or the active one holds a fit with other parameters already.

    Examples
    --------
    >>> import mlflow
    >>> from anomaly_ae import AutoencoderDetector
    >>> from anomaly_ae.mlflow import LogEpochs
    >>> with mlflow.start_run():  # doctest: +SKIP
    ...     det = AutoencoderDetector().set_callbacks(LogEpochs()).fit(normal)
    """

    def __init__(self, every: float = 1.0) -> None:
        self.every = every
        self._points: list[Point] = []

    def setup(self, estimator: Any, context: Any) -> None:
        """Find the active run."""
        run = _mlflow().active_run()
        if run is None:
            raise ConfigError(
                "LogEpochs needs an active run, however: there is none. Start one around the fit: "
                "with mlflow.start_run()."
            )
        self._run_id = run.info.run_id
        logged = _mlflow().MlflowClient().get_run(self._run_id).data.params
        other = [name for name, value in _parameters(estimator).items() if logged.get(name, str(value)) != str(value)]
        if other:
            raise ConfigError(
                f"LogEpochs logs one fit a run, however: run {self._run_id} has other values of {', '.join(other)}. "
                "Start a run for each fit."
            )
        self._sent = time.monotonic()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        pass

    def on_fit_task_end(self, estimator: Any, context: Any, *, metadata: Mapping[str, float] | None = None) -> None:
        """Log an epoch's record; at the end of all nets what the fit came to."""
        if context.task_name == "epoch" and metadata is not None:
            net = context.parent
            prefix = f"net_{net.task_id + 1}/" if net.parent.max_subtasks > 1 else ""
            record, now = dict(metadata), int(time.time() * 1000)
            epoch = int(record.pop("epoch"))
            self._points += [(prefix + name, value, now, epoch) for name, value in record.items()]
            if time.monotonic() - self._sent >= self.every:
                self._send()
        elif context.task_name == "fit":
            threshold = estimator.threshold_
            results = {
                "threshold": threshold.value_,
                "p_value_resolution": threshold.resolution_,
                "promised_false_alarm_rate": promised_rate(threshold),
            }
            mlflow = _mlflow()
            mlflow.log_params(_parameters(estimator), run_id=self._run_id)
            known = {name: value for name, value in results.items() if value is not None}
            mlflow.log_metrics(known, run_id=self._run_id)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Log what is left, of a fit that failed as well."""
        self._send()

    def _send(self) -> None:
        points, self._points = self._points, []
        if points:
            _log_points(_mlflow(), self._run_id, points)
        self._sent = time.monotonic()


def serve(host: str, port: int) -> None:
    """Run MLflow's pages on the store of `tracking_uri` until interrupted."""
    _mlflow()
    uri = tracking_uri()
    if uri.startswith("http"):
        raise ConfigError(f"A tracking server has pages of its own, however: {uri}. Open that address in a browser.")
    subprocess.run(
        [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)],
        check=False,
    )
