"""`load`: whatever a model folder holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from anomaly_ae import composites, storage
from anomaly_ae.errors import ConfigError


def load(path: str | os.PathLike[str], parts: Mapping[str, type] | None = None) -> Any:
    """Read a detector of rows or of series, or a pipeline that ends in one, from the folder that `save` wrote.

    Scores are the same to the bit.

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

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector, load
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> det = AutoencoderDetector(effort="fast", random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(det.save(f"{folder}/model"))
    >>> bool((again.anomaly_score(X) == det.anomaly_score(X)).all())
    True
    """
    if composites.is_pipeline(path):
        return composites.load(path, parts or {}, load)
    stored = storage.load(path)
    if "SeriesDetector" in stored.config.get("detector", ()):
        from anomaly_ae.series.detector import restore as series  # a job on rows need not wait for it

        return series(stored, path, parts or {})
    from anomaly_ae.detectors import restore

    return restore(stored, path, parts or {})


def load_for_rows(path: str | os.PathLike[str]) -> Any:
    """As `load`, of a detector whose rows need no neighbours in time.

    Raises
    ------
    ConfigError
        When the folder holds a detector of series.
    """
    if storage.kind(path) == "SeriesDetector":
        raise ConfigError(
            f"A job on rows needs a model of rows, however: {path} is one of series. Use its own methods, or "
            "anomaly-ae score."
        )
    if composites.is_pipeline(path):
        raise ConfigError(
            f"A job on rows needs a detector, however: {path} is a pipeline. Use its own methods, or serve it."
        )
    return load(path)
