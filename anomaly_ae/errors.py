"""The exceptions of the package, and how it warns; each message says who, what rule, what was found and what to do.

All exceptions are `ValueError`s as well, so that code written for scikit-learn catches them as it does its own.
"""

import sys
import warnings
from typing import Any

__all__ = [
    "AnomalyError",
    "BadRowsError",
    "ConfigError",
    "DataError",
    "EmptyTableError",
    "IncompatiblePartsError",
    "MissingExtraError",
    "ModelFolderError",
    "OutputError",
]

PASSED_THROUGH = {"anomaly_ae", "joblib", "sklearn", "torch"}  # packages whose lines tell a user nothing


class AnomalyError(ValueError):
    """Anything that `anomaly_ae` refuses to do, with the way out in its message."""


class BadRowsError(AnomalyError):
    """More rows of a table cannot be scored than were allowed; `facts` says how many, and where they are."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class ConfigError(AnomalyError):
    """A configuration names something that does not exist or gives it a value it cannot take."""


class DataError(AnomalyError):
    """A table cannot be read as the rows a model needs."""


class EmptyTableError(DataError):
    """A table has no row, or not even a header."""


class IncompatiblePartsError(AnomalyError):
    """Two parts of a model do not fit together."""


class MissingExtraError(AnomalyError, ImportError):
    """An optional dependency is needed and not installed."""


class ModelFolderError(AnomalyError):
    """A folder is not a model, is damaged, or was written by a newer version."""


class OutputError(AnomalyError):
    """A result cannot be put where it was asked for."""


def warn(message: str) -> None:
    """Warn, with the line that called this package, or another that called it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in PASSED_THROUGH:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
