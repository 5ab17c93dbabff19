"""Models in MLflow: runs of jobs, a flavor without pickle, and a callback for fits in Python.

The store of the jobs is that of `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; the experiment is
that of `MLFLOW_EXPERIMENT_NAME`, else "anomaly-ae".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_ae.mlflow.epochs import LogEpochs
    from anomaly_ae.mlflow.flavor import load_model, log_model

__all__ = ["LogEpochs", "load_model", "log_model"]


def __getattr__(name: str) -> Any:
    """Each comes when it is asked for: the jobs need the outbox of this package, and the flavor needs the jobs."""
    if name not in __all__:
        raise AttributeError(f"module 'anomaly_ae.mlflow' has no attribute {name!r}")
    found = getattr(import_module(f"anomaly_ae.mlflow.{'epochs' if name == 'LogEpochs' else 'flavor'}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
