"""Settings that must stand before scipy and mlflow are imported."""

import os

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn then runs its array API check instead of skipping it
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
