"""What labels say: -1 of an anomaly, 1 of a normal row, 0 where nobody knows, as scikit-learn has it; or booleans."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomaly_ae.errors import ConfigError, warn

Flags = NDArray[np.bool_]


def truth(y: ArrayLike) -> tuple[Flags, Flags]:
    """Which rows are anomalies, and of which it is known, `(n,)` each; booleans are true of an anomaly.

    Raises
    ------
    ConfigError
        Where labels are of another kind.
    """
    labels = np.asarray(y)
    if labels.ndim == 1 and (labels.dtype == bool or all(isinstance(label, bool) for label in labels)):
        return labels.astype(bool), np.ones(len(labels), dtype=bool)
    if labels.ndim != 1 or (~np.isin(labels, [-1, 0, 1])).any():
        seen = ", ".join(str(label) for label in np.unique(labels.astype(str))[:5])
        raise ConfigError(
            f"Labels need to be -1 of an anomaly, 1 of a normal row, 0 of one that nobody knows, however: {seen}. Give "
            "booleans, y == 1 say, which are true of an anomaly."
        )
    return labels == -1, labels != 0


def warn_of_ignored(y: ArrayLike | None, who: str) -> None:
    """Warn of labels that name anomalies to a detector of which no part asks for any.

    Booleans may be classes, for what comes behind a detector in a pipeline.
    """
    labels = np.asarray(y)
    if labels.dtype.kind in "if" and set(np.unique(labels)) == {-1, 1}:
        warn(
            f"{who} needs normal rows, however: y names {(labels == -1).sum():,} of {len(labels):,} anomalies, and no "
            "part asks for labels. They are learned as normal: fit on the others (in cross-validation too), or set "
            "labels=KnownAnomalies()."
        )
