"""Our models as those of MLflow: a flavor over the model folder, without pickle, and a pyfunc that scores tables."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from anomaly_ae.composites import save
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.loading import load
from anomaly_ae.mlflow.store import imported
from anomaly_ae.ops.batches import score_batches
from anomaly_ae.ops.series_table import named, told_rows
from anomaly_ae.promise import promised
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.version import __version__

FLAVOR = "anomaly_ae"
TOP = 3


def log_model(
    model: Any,
    name: str = "model",
    *,
    input_example: Any = None,
    registered_model_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    **more: Any,
) -> Any:
    """Log a model into MLflow's active run (or that of `run_id`), without pickle.

    `mlflow.pyfunc.load_model` gives it back as a pyfunc, `mlflow models serve` serves it, and both say of each row what
    `anomaly-ae score` says: `predict(table, params={"top": 3, "columns": ["anomaly_score", "is_anomaly"]})`. The model
    holds its signature, the versions of the packages that it needs, and nothing of the rows but what its folder has.

    Parameters
    ----------
    model : detector, Pipeline or path
        A fitted detector of rows or of series, a `Pipeline` that ends in one, or the folder of either.
    name : str, default="model"
        The model's name in the run.
    input_example : DataFrame or None, default=None
        Rows to keep beside the model, for people; none are unless they are given.
    registered_model_name : str or None, default=None
        Register it as a new version of this model as well.
    metadata : mapping or None, default=None
        More facts, beside class, threshold, promised rate of false alarms and number of rows.
    run_id : str or None, default=None
        The run, where it is not the active one.
    more : dict
        What else `mlflow.models.Model.log` takes.

    Returns
    -------
    mlflow.models.model.ModelInfo

    Raises
    ------
    ConfigError
        When it is no such model, or a step of a pipeline cannot be kept without pickle.

    Examples
    --------
    >>> from anomaly_ae.mlflow import load_model, log_model
    >>> info = log_model(det, registered_model_name="pump")  # doctest: +SKIP
    >>> det = load_model("models:/pump@champion")  # doctest: +SKIP
    """
    mlflow = imported()
    from mlflow.models import Model

    if run_id is not None and "model_id" not in more:  # else MLflow puts it where the active experiment is
        client = mlflow.MlflowClient()
        run = client.get_run(run_id)
        made = client.create_logged_model(run.info.experiment_id, name, run_id, params=run.data.params)
        more["model_id"] = made.model_id
    return Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        model=model,
        input_example=input_example,
        registered_model_name=registered_model_name,
        metadata=metadata,
        run_id=run_id,
        **more,
    )


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    mlflow_model: Any = None,
    input_example: Any = None,
    metadata: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write a model as a folder of MLflow's, for `log_model` and for `mlflow.pyfunc.load_model`; see `log_model`."""
    mlflow = imported()
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as place:
        is_folder = isinstance(model, str | os.PathLike)
        folder = Path(model) if is_folder else save(model, Path(place) / "anomaly_ae_model")
        fitted = load(folder)
        detector = fitted.steps[-1][1] if isinstance(fitted, Pipeline) else fitted
        described = mlflow_model or Model()
        described.add_flavor(FLAVOR, version=__version__, data=f"data/{folder.name}", model=type(fitted).__name__)
        with warnings.catch_warnings():  # that there is no example: rows are not logged unasked
            warnings.simplefilter("ignore")
            mlflow.pyfunc.save_model(
                os.fspath(path),
                loader_module=__name__,
                data_path=os.fspath(folder),
                mlflow_model=described,
                signature=signature_of(fitted, input_example),
                input_example=input_example,
                pip_requirements=requirements(),
                metadata={**_facts(detector), **(metadata or {})},
                **more,
            )


def load_model(model_uri: str, dst_path: str | None = None, parts: Mapping[str, type] | None = None) -> Any:
    """The detector or `Pipeline` that was logged, from `models:/NAME@champion`, `runs:/ID/model` or the like.

    Raises
    ------
    ConfigError
        When what is there is no model of this flavor.
    ModelFolderError
        When it is damaged.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector
    >>> from anomaly_ae.mlflow import load_model
    >>> from anomaly_ae.mlflow.flavor import save_model
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> det = AutoencoderDetector(effort="fast", random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(det, f"{folder}/model")  # log_model puts it into a run
    ...     again = load_model(f"{folder}/model")
    >>> bool((again.anomaly_score(X) == det.anomaly_score(X)).all())
    True
    """
    mlflow = imported()
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=dst_path))
    flavors = mlflow.models.Model.load(os.fspath(folder)).flavors
    if FLAVOR not in flavors:
        raise ConfigError(
            f"load_model reads models of the flavor {FLAVOR}, however: {model_uri} has {', '.join(sorted(flavors))}. "
            "Read it by one of those."
        )
    return load(folder / flavors[FLAVOR]["data"], parts)


def requirements() -> list[str]:
    """What a model needs to be loaded: this package and those that it depends on, at the versions that are here."""
    declared = [line for line in installed.requires("anomaly-ae") or [] if "extra ==" not in line]
    needed = [re.split(r"[^\w.-]", line)[0] for line in declared]
    skops = ["skops"] if _has("skops") else []
    return [f"anomaly-ae=={__version__}", *(f"{name}=={installed.version(name)}" for name in [*needed, *skops])]


def _has(name: str) -> bool:
    try:
        installed.version(name)
    except installed.PackageNotFoundError:
        return False
    return True


def _facts(detector: Any) -> dict[str, Any]:
    return {
        "detector": type(detector).__name__,
        "threshold": float(detector.threshold_.value_),
        "promised_false_alarm_rate": promised(detector),
        "rows": int(detector.n_rows_seen_),
        "columns": {column.name: column.kind for column in detector.contract_.columns},
    }


# --- signature -------------------------------------------------------------------------------------------------------


def signature_of(model: Any, example: Any = None) -> Any:
    """The signature: the columns that the model needs, those of the scores, and `params`.

    MLflow refuses whole numbers where it knows of others, and dates that are written out; so the columns are of any
    type to it, and the model's own contract says of each cell whether it can be scored. A pipeline's columns are those
    of the example, else those that its first step remembers, if it does.
    """
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    params = ParamSchema([ParamSpec("top", "long", TOP), ParamSpec("columns", "string", [""], shape=(-1,))])
    if isinstance(model, Pipeline):
        inputs = _taken(model.steps[0][1]) if example is None else infer_signature(example).inputs
        detector = model.steps[-1][1]
    else:
        detector = model
        names = [*(named(detector) if isinstance(detector, SeriesDetector) else []), *detector.contract_.names]
        known = hasattr(detector, "feature_names_in_")  # columns of an array have a place alone
        inputs = _any_type(names if known else [None] * len(names))
    outputs = Schema([ColSpec(kind, name, required=False) for name, kind in _out(detector)])
    return ModelSignature(inputs, outputs, params)


def _any_type(names: Sequence[str | None]) -> Any:
    """Columns of any type, by their names or places."""
    from mlflow.types.schema import AnyType, ColSpec, Schema

    return Schema([ColSpec(AnyType(), name) for name in names])


def _taken(step: Any) -> Any:
    """The columns that a step of a pipeline was fitted on, where it remembers them."""
    names = getattr(step, "feature_names_in_", None)
    if names is not None:
        return _any_type([str(name) for name in names])
    count = getattr(step, "n_features_in_", None)
    return None if count is None else _any_type([None] * count)


def _out(detector: Any) -> list[tuple[str, str]]:
    blamed = min(TOP, detector.n_features_in_)
    pairs = [pair for k in range(1, blamed + 1) for pair in ((f"top_{k}", "string"), (f"top_{k}_share", "double"))]
    judged = [("row", "long"), ("anomaly_score", "double"), ("p_value", "double"), ("is_anomaly", "boolean")]
    if isinstance(detector, SeriesDetector):
        return [*judged, ("event", "long"), *pairs]
    return [*judged, *pairs, ("reasons", "string")]


# --- pyfunc ----------------------------------------------------------------------------------------------------------


def _load_pyfunc(path: str) -> Scorer:
    return Scorer(load(path))


class Scorer:
    """A model as MLflow calls it."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """What there is to say of each row, in the order of the rows; one that cannot be has a reason instead."""
        asked = params or {}
        top = int(asked.get("top", TOP))
        columns = [str(name) for name in np.atleast_1d(asked.get("columns", [])) if str(name)]
        detector, rows = self.model, model_input
        if isinstance(detector, Pipeline):
            *before, (_, detector) = detector.steps
            rows = Pipeline(before).transform(rows) if before else rows
        if isinstance(rows, pd.DataFrame) and not hasattr(detector, "feature_names_in_"):
            rows = rows.to_numpy()  # MLflow makes tables of arrays
        if isinstance(detector, SeriesDetector):
            told = told_rows(detector, _chosen(rows, detector), {}, top).table.to_pandas()
        else:
            told = _told(detector, rows, top)
        if unknown := [name for name in columns if name not in told.columns]:
            raise DataError(f"params columns names columns of the scores, however: {unknown}. There are {list(told)}.")
        return told[columns] if columns else told


def _chosen(rows: Any, detector: SeriesDetector) -> Any:
    """The columns of a table that a detector of series takes."""
    if not isinstance(rows, pd.DataFrame):
        return rows
    return rows[[*named(detector), *detector.feature_names_in_]]


def _told(detector: Any, rows: Any, top: int) -> pd.DataFrame:
    scored = next(iter(score_batches(detector, [rows], top=top)))
    rejects = scored.rejects
    if not len(rejects):
        return scored.scores
    reasons = rejects["column"].astype(str) + ": " + rejects["reason"].astype(str)
    told = pd.DataFrame({"row": rejects["row"], **({"reasons": reasons} if top else {})})
    return pd.concat([scored.scores, told], ignore_index=True).sort_values("row", ignore_index=True)
