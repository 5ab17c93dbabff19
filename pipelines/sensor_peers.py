"""Detectors of series to compare with: `fit` on rows of normal operation, `anomaly_score`, `predict`, some `explain`.

They get what serves them: typed channels, scaling by train rows, scores averaged over all windows that cover a row,
and a threshold from blocks of train rows that were held out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import typer
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from peers import Factory, configured, default, listed
from sklearn.base import BaseEstimator

Array = NDArray[np.float64]
ALPHA = 0.01  # share of held-out normal rows above the threshold
BLOCKS = 3  # of train rows, held out in turn
CHUNK = 1024  # windows at a time
TSB_BATCH = 128  # rows, or windows, of a step of TSB-AD's autoencoder
MOST = 8_000  # train windows that neighbours and clusters keep


def measured(X: Array) -> NDArray[np.bool_]:
    """Channels with more than two values: no switches, one-hot commands or constants; all, if there are none."""
    several = np.array([len(np.unique(column)) > 2 for column in X.T])
    return several if several.any() else np.ones_like(several)


def over_rows(score: Array, window: int, rows: int) -> Array:
    """Mean over the windows that cover a row; `score` `(rows - window + 1, ...)` -> `(rows, ...)`.

    Examples
    --------
    >>> over_rows(np.array([0.0, 2.0]), 2, 3)
    array([0., 1., 2.])
    """
    total = np.cumsum(np.concatenate([np.zeros_like(score[:1]), score]), axis=0)
    last = np.arange(rows)
    high, low = np.minimum(last, len(score) - 1) + 1, np.maximum(last - window + 1, 0)
    return (total[high] - total[low]) / (high - low).reshape(-1, *[1] * (score.ndim - 1))


class Judged:
    """The threshold: the 1 - `ALPHA` quantile of scores of each third of the train rows by a fit on the others."""

    def fit(self, X: Array) -> Self:
        self.rows = np.asarray(X, dtype=np.float64)
        self._fit([self.rows])
        return self

    @cached_property
    def threshold(self) -> float:
        held_out = []
        for block in np.array_split(np.arange(len(self.rows)), BLOCKS):
            other = copy(self)
            other._fit([part for part in (self.rows[: block[0]], self.rows[block[-1] + 1 :]) if len(part)])
            held_out.append(other.anomaly_score(self.rows[block]))
        return float(np.quantile(np.concatenate(held_out), 1 - ALPHA))

    def predict(self, X: Array) -> NDArray[np.int64]:
        return np.where(self.anomaly_score(X) > self.threshold, -1, 1)

    def _fit(self, parts: list[Array]) -> None:
        raise NotImplementedError

    def anomaly_score(self, X: Array) -> Array:
        raise NotImplementedError


class Random(Judged):
    """Uniform scores: what a measure gives for nothing."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def _fit(self, parts: list[Array]) -> None:
        pass

    def anomaly_score(self, X: Array) -> Array:
        return self.rng.random(len(X))


class Windowed(Judged):
    """A judge of windows of scaled, typed channels; windows never lie across two parts."""

    def __init__(self, seed: int, window: int) -> None:
        self.seed, self.asked = seed, window

    def _fit(self, parts: list[Array]) -> None:
        rows = np.concatenate(parts)
        self.channels, self.width = measured(rows), rows.shape[1]
        self.low = rows[:, self.channels].min(axis=0)
        spread = rows[:, self.channels].max(axis=0) - self.low
        self.spread = np.where(spread > 0, spread, 1.0)
        self.window = min(self.asked, *(len(part) for part in parts))
        self._learn(np.concatenate([self._windows(part) for part in parts]))

    def _windows(self, X: Array) -> NDArray[np.float32]:
        scaled = ((np.asarray(X)[:, self.channels] - self.low) / self.spread).astype(np.float32)
        if len(scaled) < self.window:
            scaled = np.pad(scaled, ((0, self.window - len(scaled)), (0, 0)), mode="edge")
        return sliding_window_view(scaled, self.window, axis=0)  # (windows, channels, window)

    def _flat(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        return windows.reshape(len(windows), -1)

    def anomaly_score(self, X: Array) -> Array:
        return self._rows(X, self._judge)

    def _rows(self, X: Array, judge: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Array:
        windows = self._windows(X)
        chunks = [judge(self._flat(windows[i : i + CHUNK])) for i in range(0, len(windows), CHUNK)]
        scores = np.concatenate(chunks).astype(np.float64)
        return over_rows(scores, self.window, max(len(X), self.window))[: len(X)]

    def _learn(self, windows: NDArray[np.float32]) -> None:
        raise NotImplementedError

    def _judge(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError


class WindowedPCA(Windowed):
    """Squared residual of a window from the principal components that keep 99 % of the variance of train windows."""

    def __init__(self, seed: int, window: int = 128, keep: float = 0.99) -> None:
        super().__init__(seed, window)
        self.keep = keep

    def _learn(self, windows: NDArray[np.float32]) -> None:
        flat = self._flat(windows)
        self.mean = flat.mean(axis=0)
        centred = flat - self.mean
        wide = centred.shape[1] > len(centred)
        values, vectors = np.linalg.eigh((centred @ centred.T if wide else centred.T @ centred) / len(centred))
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        total = values.sum()
        n = int(np.searchsorted(np.cumsum(values), self.keep * total)) + 1 if total > 0 else 0
        kept = values[:n] > 1e-7 * values[0]
        basis = vectors[:, :n][:, kept]
        self.basis = centred.T @ (basis / np.sqrt(len(centred) * values[:n][kept])) if wide else basis

    def _residual(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        centred = flat - self.mean
        return centred - (centred @ self.basis) @ self.basis.T

    def _judge(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        return (self._residual(flat) ** 2).mean(axis=1)

    def explain(self, X: Array) -> Array:
        """Squared residuals by channel, `(n, channels)`; 0 for channels left out."""
        shape = (-1, int(self.channels.sum()), self.window)
        shares = self._rows(X, lambda flat: (self._residual(flat).reshape(shape) ** 2).mean(axis=2))
        everything = np.zeros((len(X), self.width))
        everything[:, self.channels] = shares
        return everything


class WindowedNeighbours(Windowed):
    """Squared distance of a window to the nearest train window, of 8,000 evenly spaced ones at most."""

    def __init__(self, seed: int, window: int = 64) -> None:
        super().__init__(seed, window)

    def _learn(self, windows: NDArray[np.float32]) -> None:
        rows = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), MOST)).round().astype(int))
        self.known = self._prototypes(self._flat(windows[rows]))
        self.length = (self.known**2).sum(axis=1)

    def _prototypes(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        return flat

    def _judge(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        nearest = (self.length - 2 * flat @ self.known.T).min(axis=1)
        return np.maximum((flat**2).sum(axis=1) + nearest, 0) / flat.shape[1]


class WindowedKMeans(WindowedNeighbours):
    """Squared distance of a window to the nearest of 32 means of train windows."""

    def __init__(self, seed: int, window: int = 64, clusters: int = 32) -> None:
        super().__init__(seed, window)
        self.clusters = clusters

    def _prototypes(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(min(self.clusters, len(flat)), random_state=self.seed, n_init=1)
        return means.fit(flat).cluster_centers_.astype(np.float32)


class WindowedPyOD(Windowed):
    """A detector of PyOD on windows of 16 rows."""

    def __init__(self, seed: int, where: str, window: int = 16, **params: Any) -> None:
        super().__init__(seed, window)
        module, _, name = where.partition(":")
        self.make = partial(getattr(import_module(module), name), random_state=seed, **params)

    def _learn(self, windows: NDArray[np.float32]) -> None:
        self.model = self.make().fit(self._flat(windows))

    def _judge(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.model.decision_function(flat)


class TSBAutoEncoder(Judged):
    """TSB-AD's AutoEncoder as its benchmark runs it: rows of all channels, or windows of 100 of a single one.

    It scales each row by its own range, before training and before scoring.
    """

    def __init__(self, seed: int, epochs: int = 50) -> None:
        self.seed, self.epochs = seed, epochs
        theirs = import_module("TSB_AD.models.AE").AutoEncoder
        self.make = type("AutoEncoder", (theirs, BaseEstimator), {})  # scikit-learn 1.7 and later ask for its tags

    def _fit(self, parts: list[Array]) -> None:
        import torch

        torch.manual_seed(self.seed)
        self.model = self.make(slidingWindow=100, batch_size=TSB_BATCH, epochs=self.epochs)
        X = np.concatenate(parts)
        self.model.fit(X[self._alone(X) :])

    def anomaly_score(self, X: Array) -> Array:
        alone = self._alone(X)
        scores = self.model.decision_function(X[alone:]).ravel()
        return np.append(scores[:alone], scores)

    @staticmethod
    def _alone(X: Array) -> int:
        """1 where the last batch would be of one row, or window, which the library cannot judge, else 0."""
        judged = len(X) if X.shape[1] > 1 else len(X) - 99
        return int(judged % TSB_BATCH == 1)


class Discord(Judged):
    """Matrix profile: distance of a z-normalised window to the nearest other one of train and scored rows.

    The window is the period of the first channel by its autocorrelation; half a window around is no neighbour.
    Distances are averaged over channels.

    References
    ----------
    Yeh et al., Matrix Profile I, ICDM 2016.
    """

    def __init__(self, seed: int) -> None:
        pass

    def _fit(self, parts: list[Array]) -> None:
        from anomaly_ae.evaluation.surface import buffer_length

        self.train = max(parts, key=len)
        self.window = min(buffer_length(self.train[:, 0]), len(self.train) // 2)

    def anomaly_score(self, X: Array) -> Array:
        rows = np.concatenate([self.train, np.asarray(X, dtype=np.float64)])
        profile = np.mean([self._profile(channel) for channel in rows.T], axis=0)
        return over_rows(profile, self.window, len(rows))[len(self.train) :]

    def _profile(self, x: Array) -> Array:
        windows = sliding_window_view(x, self.window)
        shape = windows - windows.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(shape, axis=1, keepdims=True)
        shape = (shape / np.where(norm > 1e-8, norm, 1)).astype(np.float32)
        nearest = np.empty(len(shape))
        for start in range(0, len(shape), CHUNK):
            alike = shape[start : start + CHUNK] @ shape.T
            for i, line in enumerate(alike, start):
                line[max(0, i - self.window // 2) : i + self.window // 2 + 1] = -1
            nearest[start : start + CHUNK] = alike.max(axis=1)
        return np.sqrt(np.maximum(2 * self.window * (1 - nearest), 0))


def ours(seed: int) -> Any:
    """The default, with the alarms of its peers."""
    return default("anomaly_ae:SeriesDetector", seed).set_params(threshold__alpha=ALPHA)


SERIES_OURS: dict[str, Factory] = {"SeriesDetector": ours}
SERIES_PEERS: dict[str, Factory] = {
    "Random": Random,
    "Windowed-PCA": WindowedPCA,
    "Windowed-1-NN": WindowedNeighbours,
    "Windowed-KMeans": WindowedKMeans,
    "Discord": Discord,
    "PyOD-IForest": partial(WindowedPyOD, where="pyod.models.iforest:IForest"),
    "PyOD-AutoEncoder": partial(WindowedPyOD, where="pyod.models.auto_encoder:AutoEncoder", verbose=0),
    "TSB-AD-AutoEncoder": TSBAutoEncoder,
}
SERIES_METHODS = SERIES_OURS | SERIES_PEERS
QUADRATIC = {"Discord"}  # in rows: left out by default where series are long


def chosen_for_series(
    names: str | None, configs: Sequence[Path], short: bool
) -> tuple[dict[str, Factory], dict[str, Exception]]:
    """Factories by name, and why others of the default are not there: packages that are not installed."""
    known = SERIES_METHODS | {path.stem: partial(configured, path) for path in configs}
    asked = listed(names) or [name for name in SERIES_METHODS if short or name not in QUADRATIC]
    wanted = [*asked, *(path.stem for path in configs)]
    if strange := {*wanted} - {*known}:
        raise typer.BadParameter(f"Methods are {', '.join(SERIES_METHODS)}, not {sorted(strange)}.")
    there, absent = {}, {}
    for name in wanted:
        try:
            known[name](0)
            there[name] = known[name]
        except (ImportError, AttributeError) as error:
            if names:
                raise typer.BadParameter(f"{name} is not installed: {error}.") from error
            absent[name] = error
    return there, absent
