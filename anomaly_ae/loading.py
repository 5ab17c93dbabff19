"""`load`: whatever a model folder holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from anomaly_ae import detectors, storage
from anomaly_ae.series import detector as series


def load(path: str | os.PathLike[str], parts: Mapping[str, type] | None = None) -> Any:
    """Read a detector of rows or of series from the folder that `save` wrote; scores are the same to the bit.

    Parameters
    ----------
    path : path
        The model folder.
    parts : mapping of str to class, default=None
        A user's own parts by the names that the folder uses; no code is ever loaded from the folder itself.

    Raises
    ------
    ModelFolderError
        When the folder is missing, no model, damaged, or of a newer version.
    """
    stored = storage.load(path)
    of_series = not series.SERIES_DETECTORS.keys().isdisjoint(stored.config.get("detector", ()))
    return (series if of_series else detectors).restore(stored, path, parts or {})
