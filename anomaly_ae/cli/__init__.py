"""The shell: one function a command of `anomaly-ae`. Thin; the work is in `ops`."""

from anomaly_ae.cli import jobs, evaluating, monitoring, series  # noqa: I001 (the order of --help)
from anomaly_ae.cli import models
from anomaly_ae.cli.app import app
from anomaly_ae.cli.jobs import FailOn

__all__ = ["FailOn", "app", "evaluating", "jobs", "models", "monitoring", "series"]
