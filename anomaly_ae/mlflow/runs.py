"""Runs of fitting and scoring jobs."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_ae.estimator import Detector
from anomaly_ae.mlflow.epochs import parameters
from anomaly_ae.mlflow.store import EXPERIMENT, KIND, imported, log_points, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def run(kind: str, name: str, source: Path, digest: str, rows: int) -> Iterator[Any]:
    """A run of one job, with its input as a dataset; yields the `mlflow` module, closes the run as failed on error."""
    mlflow = imported()
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
        mlflow.log_params(parameters(detector))
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


def _log_curves(mlflow: Any, detector: Detector) -> None:
    """One point an epoch, the mean over the nets that got that far; in one request a thousand points."""
    curves = detector.history_.drop(columns=["net"]).groupby("epoch").mean()
    now = int(time.time() * 1000)
    points = [
        (name, value, now, epoch)
        for name in curves.columns
        for epoch, value in zip(curves.index.tolist(), curves[name].tolist(), strict=True)
    ]
    log_points(mlflow, mlflow.active_run().info.run_id, points)
