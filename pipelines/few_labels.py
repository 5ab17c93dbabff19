"""What a few labels are worth: known anomalies beside normal rows, ours and what else learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import StandardScaler

Scores = Callable[[Any, Any, Any, int], Any]  # of rows, by a fit on train rows and their labels with a seed
KNOWN = (0, 1, 5, 20)
KINDS = ("same", "other")  # known anomalies are drawn from all, or from one of two clusters and judged by the other
LEAST = 10  # anomalies to judge by


def ours(labels: bool) -> Scores:
    """The default detector, told the known anomalies or not."""

    def score(X: Any, y: Any, new: Any, seed: int) -> Any:
        from anomaly_ae import AutoencoderDetector, KnownAnomalies

        told = labels and (y == -1).any()
        det = AutoencoderDetector(labels=KnownAnomalies() if told else None, random_state=seed)
        return (det.fit(X, y) if told else det.fit(X[y == 1])).anomaly_score(new)

    return score


def boosted(X: Any, y: Any, new: Any, seed: int) -> Any:
    """Gradient boosting of the two classes, of equal weight."""
    model = HistGradientBoostingClassifier(class_weight="balanced", random_state=seed).fit(X, y == -1)
    return model.decision_function(new)


LEARNERS: dict[str, Scores] = {
    "AutoencoderDetector": ours(labels=False),
    "KnownAnomalies": ours(labels=True),
    "HistGradientBoosting": boosted,
}


def trials(
    X: Any, y: Any, train: Sequence[int], test: Sequence[int], seed: int
) -> dict[tuple[str, int], tuple[Any, Any, Any, Any]]:
    """By kind and number of known anomalies: train rows, their labels, rows to judge, which of them are anomalies."""
    anomalies, normal = test[y[test] == 1], test[y[test] == 0]
    anomalies = np.random.default_rng(seed).permutation(anomalies)
    cluster = np.zeros(len(anomalies), dtype=int)
    if len(anomalies) > 2 * LEAST:
        scaled = StandardScaler().fit(X[train]).transform(X[anomalies])
        cluster = KMeans(2, n_init=5, random_state=seed).fit_predict(np.arcsinh(scaled))
    made = {}
    for kind in KINDS:
        from_, to = (anomalies, anomalies) if kind == "same" else (anomalies[cluster == 0], anomalies[cluster == 1])
        for known in KNOWN:
            told = from_[:known]
            judged = np.setdiff1d(to, from_[: max(KNOWN)])  # the same ones, however many are known
            if len(told) == known and len(judged) >= LEAST and len(from_) >= max(KNOWN):
                rows, labels = np.concatenate([train, told]), np.repeat([1, -1], [len(train), known])
                new = np.concatenate([normal, judged])
                made[kind, known] = X[rows], labels, X[new], np.isin(new, judged).astype(int)
    return made


def table(results: pd.DataFrame) -> pd.DataFrame:
    """AUROC and average precision, means over tables of means over seeds, by what is known."""
    by = results.groupby(["kind", "known", "method", "table"])[["auroc", "ap"]].mean()
    return by.groupby(["kind", "known", "method"]).mean().reset_index()
