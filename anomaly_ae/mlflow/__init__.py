"""Models in MLflow: runs of jobs, and a callback for fits in Python.

The store of the jobs is that of `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory; the experiment is
that of `MLFLOW_EXPERIMENT_NAME`, else "anomaly-ae".
"""

from anomaly_ae.mlflow.epochs import LogEpochs

__all__ = ["LogEpochs"]
