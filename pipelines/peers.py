"""The detectors that the benchmark runs, ours and their peers, each behind `fit` and `anomaly_score`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import typer

Factory = Callable[[int], Any]  # from a seed to something with fit(X) and anomaly_score(X)


def _class(where: str) -> type:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


class Peer:
    """A detector of scikit-learn or PyOD behind `fit` and `anomaly_score`, with the preparation that it needs."""

    def __init__(self, where: str, seed: int, **params: Any) -> None:
        made = _class(where)
        seeded = {"random_state": seed} if "random_state" in signature(made).parameters else {}
        self.model, self.preparation = made(**params, **seeded), _class("sklearn.preprocessing:StandardScaler")()

    def fit(self, X: Any) -> Peer:
        self.model.fit(self.preparation.fit_transform(X))
        return self

    def anomaly_score(self, X: Any) -> np.ndarray:
        rows = self.preparation.transform(X)
        if hasattr(self.model, "kneighbors"):
            return self.model.kneighbors(rows)[0][:, -1]  # the distance to the k-th
        if hasattr(self.model, "score_samples"):
            return -self.model.score_samples(rows)  # scikit-learn: larger is more normal
        return self.model.decision_function(rows)


def default(where: str, seed: int) -> Any:
    return _class(where)(random_state=seed)


def configured(path: Path, seed: int) -> Any:
    return import_module("anomaly_ae.config").load(path)[0].set_params(random_state=seed)


OURS: dict[str, Factory] = {
    "AutoencoderDetector": partial(default, "anomaly_ae:AutoencoderDetector"),
    "VAEDetector": partial(default, "anomaly_ae:VAEDetector"),
}
PEERS: dict[str, Factory] = {
    "1-NN": partial(Peer, "sklearn.neighbors:NearestNeighbors", n_neighbors=1),
    "5-NN": partial(Peer, "sklearn.neighbors:NearestNeighbors", n_neighbors=5),
    "IsolationForest": partial(Peer, "sklearn.ensemble:IsolationForest"),
    "PCA": partial(Peer, "pyod.models.pca:PCA"),
    "PyOD-AutoEncoder": partial(Peer, "pyod.models.auto_encoder:AutoEncoder", verbose=0),
    "PyOD-VAE": partial(Peer, "pyod.models.vae:VAE", verbose=0),
}
METHODS = OURS | PEERS


def chosen(names: str | None, configs: Sequence[Path], default: Collection[str]) -> dict[str, Factory]:
    """Factories by name: those asked for or the default, and one for each configuration, under its file's stem."""
    known = METHODS | {path.stem: partial(configured, path) for path in configs}
    wanted = [*(listed(names) or default), *(path.stem for path in configs)]
    if strange := {*wanted} - {*known} | {path.stem for path in configs} & {*METHODS}:
        raise typer.BadParameter(
            f"Methods are {', '.join(METHODS)} and names of configurations, not {sorted(strange)}."
        )
    try:
        for name in wanted:
            known[name](0)
    except ImportError as error:
        raise typer.BadParameter(f"{error}. Install the peers: pip install 'anomaly-ae[bench]'.") from error
    except ValueError as error:
        raise typer.BadParameter(f"{name}: {error}") from error
    return {name: known[name] for name in dict.fromkeys(wanted)}


def listed(names: str | None) -> list[str]:
    """The names in "a,b"."""
    return [name.strip() for name in names.split(",") if name.strip()] if names else []
