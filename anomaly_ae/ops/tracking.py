"""Runs of finished jobs in MLflow: the result is published already, so a run that fails is only a warning."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from anomaly_ae.errors import AnomalyError

Summary = TypeVar("Summary", bound=Any)


def tracked(summary: Summary, log: Callable[[], str]) -> Summary:
    """The summary with its run."""
    from anomaly_ae.mlflow.store import tracking_uri

    try:
        run_id = log()
    except Exception as error:
        reason = str(error) if isinstance(error, AnomalyError) else f"Tracking failed: {type(error).__name__}: {error}"
        warnings.warn(f"{' '.join(reason.split())[:500]} The result is complete.", UserWarning, stacklevel=2)
        return summary
    return replace(summary, run_id=run_id, tracking_uri=tracking_uri())


def digest(*paths: str | Path) -> str:
    """SHA-256 of a file, or of those of several files; of standard input of its name."""
    found: Sequence[str] = [_digest(Path(path)) if Path(path).is_file() else str(path) for path in paths]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
