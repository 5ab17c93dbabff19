"""Models in MLflow: runs of jobs, a flavor without pickle, and a callback for fits in Python.

The store of the jobs is that of `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; the experiment is
that of `MLFLOW_EXPERIMENT_NAME`, else "anomaly-ae".
"""

from anomaly_ae.mlflow.epochs import LogEpochs
from anomaly_ae.mlflow.flavor import load_model, log_model

__all__ = ["LogEpochs", "load_model", "log_model"]
