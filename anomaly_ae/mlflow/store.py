"""Where runs go: the store, how to speak with it, and its pages."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anomaly_ae.errors import ConfigError, MissingExtraError
from anomaly_ae.mlflow.outbox import Point, experiment_name

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# A job does not wait for a store that is not there: MLflow's own seven retries of two minutes each would be hours
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
QUIET = {  # standard output is for scores
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def tracking_uri() -> str:
    """Where runs go; it may hold a password."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def redacted(text: str) -> str:
    """A text without what is secret: user and password of addresses, and what the environment gives as credentials."""
    secrets = [os.environ.get(name) for name in SECRETS]
    with contextlib.suppress(ValueError):
        secrets.append(urlsplit(tracking_uri()).password)
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    text = re.sub(r"(?<!sqlite)(?<!file)://[^\s/]*@", "://", text)
    return re.sub(r"(?i)([?&;][^=\s]*(?:password|passwd|token|secret|key)[^=\s]*=)[^&;\s]+", r"\1***", text)


def said(error: Exception) -> str:
    """What MLflow or its store says, in a line without secrets."""
    uri, below = tracking_uri(), error.__cause__ or error.__context__
    if uri.startswith("http") and isinstance(below, OSError):  # all errors of requests are
        return f"{redacted(uri)} cannot be reached ({type(below).__name__})"
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:500].rstrip(".")


def imported() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a firewall would make it wait
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow
    except ImportError as error:
        raise MissingExtraError(
            "Tracking needs mlflow, however: it is not installed. Run pip install 'anomaly-ae[mlflow]', or do without "
            "tracking (--no-track)."
        ) from error
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy")  # of MLflow's own database code
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the first use of a database is not news
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # nor is each try
    return mlflow


@contextlib.contextmanager
def connected(patience: int = 5) -> Iterator[Any]:
    """The `mlflow` module, speaking to the store of `tracking_uri` while the block lasts.

    `patience` is in seconds that a request may take, where the environment says nothing of it.
    """
    mlflow = imported()
    from mlflow.store.db import utils as databases

    settings = IMPATIENT | QUIET | {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(patience)}
    tries = databases.MAX_RETRY_COUNT
    with _unheard(), _environment({name: value for name, value in settings.items() if name not in os.environ}):
        mlflow.set_tracking_uri(tracking_uri())
        databases.MAX_RETRY_COUNT = min(3, tries)  # ten tries to open a database would be a hundred seconds
        try:
            yield mlflow
        finally:
            databases.MAX_RETRY_COUNT = tries
            mlflow.set_tracking_uri(None)  # as the environment has it, in which whoever set it before set it as well


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Have MLflow log nothing for a while: what goes wrong is raised as well."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "mlflow.store.db.utils")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for a while; MLFLOW_TRACKING_URI, which MLflow sets by itself, is afterwards as it was."""
    before = {name: os.environ.get(name) for name in [*values, "MLFLOW_TRACKING_URI"]}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def log_points(client: Any, run_id: str, points: list[Point]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points if not math.isnan(point[1])]
    for start in range(0, len(metrics), 1000):  # more than that a store refuses
        client.log_batch(run_id, metrics=metrics[start : start + 1000])


def last_page() -> str:
    """Where MLflow's pages show the last run of the jobs, after their address; empty where none can be found."""
    with contextlib.suppress(Exception), connected() as mlflow:  # the pages say what is wrong, if something is
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(experiment_name()).experiment_id
        last, *_ = client.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)
        return f"/#/experiments/{experiment}/runs/{last.info.run_id}"
    return ""


def serve(host: str, port: int, begin: Callable[[], None]) -> None:
    """Run MLflow's pages on the store of `tracking_uri` until interrupted; raises OSError where the port is taken.

    `begin` is called before they run, if they can.
    """
    imported()
    uri = tracking_uri()
    if uri.startswith("http"):
        raise ConfigError(
            f"A tracking server has pages of its own, however: {redacted(uri)}. Open that address in a browser."
        )
    try:  # MLflow says that it is taken and ends as if all were well
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(
            f"MLflow's pages need a port of their own, however: {host}:{port} cannot be had. Choose another (--port)."
        ) from error
    begin()
    subprocess.run(
        [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)],
        check=False,
    )
