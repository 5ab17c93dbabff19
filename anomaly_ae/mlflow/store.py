"""Where runs go: the store, its experiment, and its pages. The only `import mlflow`."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from anomaly_ae.errors import ConfigError, MissingExtraError

EXPERIMENT = "anomaly-ae"
KIND = "mlflow.experimentKind"
Point = tuple[str, float, int, int]  # of a curve: metric, value, time in milliseconds, epoch


def tracking_uri() -> str:
    """Where runs go."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def imported() -> Any:
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


def log_points(mlflow: Any, run_id: str, points: list[Point]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points if not math.isnan(point[1])]
    for start in range(0, len(metrics), 1000):  # more than that a store refuses
        mlflow.MlflowClient().log_batch(run_id, metrics=metrics[start : start + 1000])


def serve(host: str, port: int) -> None:
    """Run MLflow's pages on the store of `tracking_uri` until interrupted."""
    imported()
    uri = tracking_uri()
    if uri.startswith("http"):
        raise ConfigError(f"A tracking server has pages of its own, however: {uri}. Open that address in a browser.")
    subprocess.run(
        [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)],
        check=False,
    )
