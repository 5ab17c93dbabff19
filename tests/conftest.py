"""Settings that must stand before scipy and mlflow are imported."""

import os

import pytest

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn then runs its array API check instead of skipping it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of its own, without a say in where runs go."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "ANOMALY_AE_OUTBOX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
