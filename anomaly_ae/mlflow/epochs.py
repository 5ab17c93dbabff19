"""A callback that logs fits in Python."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anomaly_ae.errors import ConfigError
from anomaly_ae.estimator import Detector
from anomaly_ae.mlflow.outbox import Point
from anomaly_ae.mlflow.store import imported, log_points
from anomaly_ae.promise import promised

if TYPE_CHECKING:
    from anomaly_ae.series.detector import SeriesDetector


def parameters(detector: Detector | SeriesDetector) -> dict[str, Any]:
    """Every hyperparameter that was in force, the defaults' included."""
    parts = detector.parts()
    own = {name: value for name, value in detector.get_params(deep=False).items() if name not in parts}
    if isinstance(detector, Detector):
        own = {name: detector.chosen(name) for name in own}
    elif (views := getattr(detector, "views_", None)) is not None:
        own["views"] = views
        if not any(view.scorer.reads_net for view in views):  # then there is no net
            parts = {axis: parts[axis] for axis in ("preprocessing", "threshold")}
    for axis, part in parts.items():
        own[axis] = type(part).__name__ if part is not None else None
        if part is not None:
            own |= {f"{axis}.{name}": value for name, value in part.get_params(deep=False).items()}
    return own


class LogEpochs:
    """Callback that logs one fit into MLflow's active run, epoch by epoch, as curves that grow while it trains.

    Each epoch's record (loss and its terms, validate loss, learning rate, `epoch_seconds`) is metrics of that step:
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
        run = imported().active_run()
        if run is None:
            raise ConfigError(
                "LogEpochs needs an active run, however: there is none. Start one around the fit: "
                "with mlflow.start_run()."
            )
        self._run_id = run.info.run_id
        logged = imported().MlflowClient().get_run(self._run_id).data.params
        other = [name for name, value in parameters(estimator).items() if logged.get(name, str(value)) != str(value)]
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
            epoch, record["epoch_seconds"] = int(record.pop("epoch")), record.pop("seconds")
            self._points += [(prefix + name, value, now, epoch) for name, value in record.items()]
            if time.monotonic() - self._sent >= self.every:
                self._send()
        elif context.task_name == "fit":
            threshold = estimator.threshold_
            results = {
                "threshold": threshold.value_,
                "p_value_resolution": threshold.resolution_,
                "promised_false_alarm_rate": promised(estimator),
            }
            mlflow = imported()
            mlflow.log_params(parameters(estimator), run_id=self._run_id)
            known = {name: value for name, value in results.items() if value is not None}
            mlflow.log_metrics(known, run_id=self._run_id)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Log what is left, of a fit that failed as well."""
        self._send()

    def _send(self) -> None:
        points, self._points = self._points, []
        if points:
            log_points(imported().MlflowClient(), self._run_id, points)
        self._sent = time.monotonic()
