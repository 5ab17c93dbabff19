"""A scikit-learn `Pipeline` that ends in a detector, as a folder: the detector as ever, its other steps by skops."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from anomaly_ae import storage
from anomaly_ae.errors import ConfigError, MissingExtraError, ModelFolderError

FORMAT = "anomaly_ae pipeline"
DETECTOR = "detector"
STEPS = "steps.skops"
TRUSTED = (  # beside what skops trusts by itself: NumPy's and scikit-learn's own types
    "anomaly_ae.series.spectra.Envelope",
    "anomaly_ae.series.spectra.LogMel",
    "anomaly_ae.series.spectra.Spectrogram",
)


def save(model: Any, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a fitted detector, or a `Pipeline` that ends in one, as a model folder without pickle; returns its path.

    Raises
    ------
    ConfigError
        When it is neither, or a step is of a type that is not NumPy's, scikit-learn's or ours.
    OutputError
        When the folder exists and `overwrite` is not set, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import RobustScaler
    >>> from anomaly_ae import AutoencoderDetector, load, save
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> pipe = make_pipeline(RobustScaler(), AutoencoderDetector(max_epochs=2, random_state=0)).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(save(pipe, f"{folder}/model"))
    >>> (again.score_samples(X) == pipe.score_samples(X)).all()
    np.True_
    """
    if not isinstance(model, Pipeline):
        if not hasattr(model, "save") or not hasattr(model, "calibration_scores_"):
            raise ConfigError(
                f"A model folder holds a fitted detector or a Pipeline that ends in one, however: "
                f"{type(model).__name__}. Fit it first, or save something else another way."
            )
        written: Path = model.save(path, overwrite)
        return written
    last = model.steps[-1][1]
    if not hasattr(last, "save"):
        raise ConfigError(
            f"A pipeline in a model folder ends in a detector of this package, however: this one ends in "
            f"{type(last).__name__}. Keep it another way."
        )
    early = [name for name, step in model.steps[:-1] if hasattr(step, "anomaly_score")]
    if early:
        raise ConfigError(
            f"A pipeline in a model folder has its one detector at the end, however: {', '.join(early)}. Save that "
            "detector by itself, and keep the pipeline another way."
        )
    skops = _skops()

    def write(folder: Path) -> None:
        skops.dump(model.steps[:-1], folder / STEPS)
        strange = sorted(set(skops.get_untrusted_types(file=folder / STEPS)) - set(TRUSTED))
        if strange:
            raise ConfigError(
                f"Steps before a detector are kept without pickle where they are scikit-learn's or ours, however: "
                f"{', '.join(strange)}. Do that step before the pipeline, or by a transformer of scikit-learn."
            )
        last.save(folder / DETECTOR)
        (folder / "config.json").write_text(json.dumps({"name": model.steps[-1][0]}) + "\n")

    return storage.save_folder(path, write, FORMAT, overwrite)


def load(path: str | os.PathLike[str], parts: Mapping[str, type], detector: Any) -> Pipeline:
    """Read such a folder; `detector` reads the detector in it.

    Raises
    ------
    ModelFolderError
        When it is damaged, or a step is of a type that is not trusted.
    """
    path, skops = Path(path), _skops()
    storage.check_folder(path, FORMAT)
    try:
        steps = skops.load(path / STEPS, trusted=list(TRUSTED))
        name = json.loads((path / "config.json").read_text())["name"]
    except Exception as error:  # skops': of whatever type the file asks for
        raise ModelFolderError(
            f"A pipeline's steps are read where they are scikit-learn's or ours, however: {path}: "
            f"{' '.join(str(error).split())[:300]} Restore it or save it again."
        ) from error
    return Pipeline([*steps, (name, detector(path / DETECTOR, parts))])


def is_pipeline(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a pipeline, by a look at its manifest."""
    try:
        return bool(json.loads((Path(path) / "manifest.json").read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise MissingExtraError(
            "A pipeline is kept without pickle by skops, however: it is not installed. Run pip install "
            "'anomaly-ae[mlflow]', or save the detector alone."
        ) from error
    return skops.io
