"""Settings that must stand before scipy and mlflow are imported."""

import os
import shutil
import tempfile
import uuid

import pytest

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn then runs its array API check instead of skipping it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

REMEMBERED = tempfile.TemporaryDirectory()
os.environ["ANOMALY_AE_MONITOR"] = REMEMBERED.name


@pytest.fixture(autouse=True)
def _monitor_of_its_own(monkeypatch):
    """What monitoring remembers is neither in the working directory nor known to other tests."""
    monkeypatch.setenv("ANOMALY_AE_MONITOR", f"{REMEMBERED.name}/{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store of MLflow that has its tables, which take seconds to make, and nothing else."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, empty_store):
    """A working directory of its own, with a store, and without a say in where runs go."""
    shutil.copy(empty_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ANOMALY_AE_MONITOR", "ANOMALY_AE_OUTBOX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def short_blocks(monkeypatch):
    """A job has a place to stop every `BLOCK` rows, as with many columns: tables of few are judged in longer ones."""
    from anomaly_ae.folds import BLOCK

    monkeypatch.setattr("anomaly_ae.ops.job.at_once", lambda columns: BLOCK)
