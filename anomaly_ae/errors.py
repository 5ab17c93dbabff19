"""The exceptions of the package; each message says who, what rule, what was found and what to do.

All of them are `ValueError`s as well, so that code written for scikit-learn catches them as it does its own.
"""

from typing import Any

__all__ = [
    "AnomalyError",
    "BadRowsError",
    "ConfigError",
    "DataError",
    "IncompatiblePartsError",
    "MissingExtraError",
    "ModelFolderError",
    "OutputError",
]


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


class IncompatiblePartsError(AnomalyError):
    """Two parts of a model do not fit together."""


class MissingExtraError(AnomalyError, ImportError):
    """An optional dependency is needed and not installed."""


class ModelFolderError(AnomalyError):
    """A folder is not a model, is damaged, or was written by a newer version."""


class OutputError(AnomalyError):
    """A result cannot be put where it was asked for."""
